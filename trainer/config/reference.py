"""Generates docs/training-configuration.md from the keys."""

from __future__ import annotations

import json

from pydantic.fields import FieldInfo

from trainer.config.keys import GROUPS


def page() -> str:
    """Return the page: one table of keys for each group."""
    lines = [
        "# Training configuration",
        "",
        "The keys of a training configuration, a JSON file. They stand side by side or in their",
        'group: `{"mel_weight": 15}` and `{"losses": {"mel_weight": 15}}` mean the same.',
        "`--set key=value` overrides a key. The terms of the loss are described in",
        "[training.md](training.md#losses). This page is what `snac-trainer --reference` prints.",
    ]
    for name, group in GROUPS.items():
        title = (group.__doc__ or "").rstrip(".")
        lines += [
            "",
            f"## {title}",
            "",
            f"Group `{name}`.",
            "",
            "| key | default | |",
            "|---|---|---|",
        ]
        for key in group.__annotations__:
            field = group.model_fields[key]
            lines.append(f"| `{key}` | {_default(field)} | {field.description} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default in (None, (), {}):
        return ""
    return f"`{json.dumps(field.default)}`"
