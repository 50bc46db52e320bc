"""Where models come from: checkpoints, the model store, and their identity."""

from __future__ import annotations

from snac_core.store.checkpoint import load
from snac_core.store.model_store import ModelStore

__all__ = ["ModelStore", "load"]
