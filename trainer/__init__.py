"""Curriculum fine-tuning of SNAC on one's own speech.

A folder imports only from those before it, and `cli` from all of them:
`config`, with what goes with it; `data` and `objective`; `preparation`, which needs only
`data`; `process` (ranks, signals, checkpoints) and `model`; `run`, which is the training;
`pages` (HTML and figures); `evaluation` and `tokens`, which measure what came of it.
"""

from __future__ import annotations

import snac_core.utils.openmp  # noqa: F401 - before torch
