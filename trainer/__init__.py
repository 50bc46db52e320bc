"""Curriculum fine-tuning of SNAC on one's own speech.

A folder imports only from those before it: `config`; `data` and `losses`; `runtime` (ranks,
signals, checkpoints, metrics); `model`; `reporting` (HTML and plots); `training`, `evaluation`,
`preparation` and `tokens`; and `cli`, which imports from all of them.
"""

from __future__ import annotations

import snac_core.utils.openmp  # noqa: F401 - before torch
