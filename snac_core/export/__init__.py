"""Models in the formats of others: the published SNAC package, ONNX, the Hugging Face Hub."""

from __future__ import annotations

from snac_core.export.card import model_card
from snac_core.export.hub import push, push_folder
from snac_core.export.upstream import write_upstream

__all__ = ["model_card", "push", "push_folder", "write_upstream"]
