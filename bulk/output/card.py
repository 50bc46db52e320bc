"""The dataset card of an output: what it holds, for its readers and for the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bulk.output.folder import PREFIX, Output
from bulk.output.rows import CODES_LIST

EDGES = (0, 1, 2, 5, 10, 15, 20, 30, 60, 300, 3600)
"""Seconds; bounds of the histogram of durations."""
WIDTH = 40
"""Characters of the longest bar."""

_WHAT = {
    "id": "unique; the input's id, or the recording's name",
    "path": "what the input calls the recording",
    "duration": "seconds",
    "num_samples": "samples of audio that the codes decode to",
    "sample_rate": "of that audio, in Hz",
    "codes": "the codes in the layout {layout}",
    CODES_LIST: "the codes as tokens of Orpheus, base {base}{dropped}",
    "model_version": "the model that made the codes",
    "token_space": "codes of one token space can be decoded by each other's models",
}


def card(output: Output, failed: int) -> str:
    """Return the card's text."""
    settings = output.settings
    seconds = output.durations()
    suffix = output.format.suffix
    columns = "\n".join(
        f"| `{name}` | {kind} | {_what(name, settings)} |"
        for name, kind in settings["columns"].items()
    )
    return f"""---
# license: to be filled in by the owner of the recordings
configs:
- config_name: default
  data_files: "{PREFIX}*{suffix}"
tags:
- snac
- audio-tokens
---

# Audio tokens

SNAC codes of {len(seconds):,} clips, {seconds.sum() / 3600:.2f} hours; {failed:,} clips failed
(`errors.parquet`, if there are any).

| | |
|---|---|
| model version | `{settings["model_version"]}` |
| token space | `{settings["token_space"]}` |
| sample rate | {settings["sample_rate"]} Hz |
| codes per frame | {settings["codes_per_frame"]} |
| licence | to be filled in by the owner of the recordings |

## Columns

| column | type | |
|---|---|---|
{columns}

## Durations

```
{_histogram(seconds)}
```
"""


def _what(name: str, settings: Mapping[str, Any]) -> str:
    rows = settings["rows"]
    if name.startswith("level_"):
        return f"codes of level {name.removeprefix('level_')}, coarse to fine"
    dropped = ", repeated frames dropped" if rows["drop_repeated_frames"] else ""
    base = rows["base"] if rows["base"] is not None else 128266
    text = _WHAT.get(name, "from the input")
    return text.format(layout=rows["layout"], base=base, dropped=dropped)


def _histogram(seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    counts, _ = np.histogram(seconds, [*EDGES, np.inf])
    most = max(1, int(counts.max()))
    uppers = [*(f"{edge:g} s" for edge in EDGES[1:]), ""]
    lines = []
    for lower, upper, count in zip(EDGES, uppers, counts, strict=True):
        span = f"{lower:g} - {upper}" if upper else f"over {lower:g} s"
        lines.append(f"{span:>14} {count:>10,} {'#' * round(WIDTH * count / most)}".rstrip())
    return "\n".join(lines)
