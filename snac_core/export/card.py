"""The model card of a model that has none."""

from __future__ import annotations

import json

from snac_core.store.checkpoint import Checkpoint


def model_card(found: Checkpoint) -> str:
    """Return Markdown, with the metadata that the Hugging Face Hub reads, on what a model is."""
    config, manifest = found.config, found.manifest
    rates = ":".join(map(str, config.codes_per_frame))
    lines = [
        "---",
        "library_name: snac",
        "tags: [snac, audio, codec, speech]",
        "---",
        f"# {found.version}",
        "",
        f"A SNAC audio codec for {config.sampling_rate} Hz: {config.tokens_per_second:.2f} tokens "
        f"and {config.bits_per_second:.0f} bits a second, levels {rates}.",
        "",
        f"Token space `{found.token_space}`: codes of models with another one mean nothing to it.",
    ]
    if manifest is not None and manifest.parent:
        lines += ["", f"Fine-tuned from `{manifest.parent}`."]
    if manifest is not None and manifest.metrics:
        lines += ["", "```json", json.dumps(dict(manifest.metrics), indent=1), "```"]
    lines += [
        "",
        "```python",
        "from snac import SNAC",
        "",
        'model = SNAC.from_pretrained("OWNER/NAME").eval()',
        "```",
    ]
    return "\n".join(lines) + "\n"
