"""Corpora into tokens, exactly once, on Ray."""

from __future__ import annotations

import snac_core.utils.openmp  # noqa: F401 - before torch
