"""The generated pages of docs/: settings, metrics and limits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from service.limits.table import LIMITS
from service.observability.metrics import Metrics
from service.settings import SECTIONS, Settings


def settings_page() -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "The service reads its settings from environment variables. Each is also an option of",
        "`snac-service`, which takes precedence: `--max-seconds 60` is `SNAC_MAX_SECONDS=60`,",
        "`--no-allow-anonymous` is `SNAC_ALLOW_ANONYMOUS=false`. An empty variable counts as",
        "unset. A variable `SNAC_*` that is no setting is named in the log, with the nearest one.",
        "This page is the output of `snac-service --reference settings`.",
    ]
    for section in SECTIONS:
        lines += ["", f"## {_title(section)}", "", "| variable | default | |", "|---|---|---|"]
        for name in section.__annotations__:
            field = section.model_fields[name]
            about = field.description or ""
            lines.append(f"| `SNAC_{name.upper()}` | {_default(field)} | {about} |")
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """Return docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "`GET /metrics` returns Prometheus text format: the metrics in this table and the standard",
        "`process_` and `python_` metrics. With several workers every sample also has the label",
        "`worker`. An outcome is `ok` or the last part of a problem's `type`. This page is the",
        "output of `snac-service --reference metrics`.",
        "",
        "| metric | type | labels | |",
        "|---|---|---|---|",
    ]
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def limits_page() -> str:
    """Return docs/limits.md."""
    lines = [
        "# Limits",
        "",
        "What a client may have of the service, and what it is answered past that. Settings are",
        "explained in [settings.md](settings.md); a figure in their place is not to be set. This",
        "page is the output of `snac-service --reference limits`.",
        "",
        "| limit | setting | default | past it |",
        "|---|---|---|---|",
    ]
    for limit in LIMITS:
        field = Settings.model_fields.get(limit.setting)
        setting = f"`SNAC_{limit.setting.upper()}`" if field else limit.setting
        default = (_default(field) or "none") if field else ""
        lines.append(f"| {limit.what} | {setting} | {default} | {limit.answer} |")
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "settings": settings_page,
    "metrics": metrics_page,
    "limits": limits_page,
}


def _title(section: type) -> str:
    return (inspect.getdoc(section) or "").splitlines()[0].rstrip(".")


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        value = str(value).lower()
    assert not isinstance(value, (SecretStr, Path))
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
