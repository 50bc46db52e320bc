"""The network as it was published: layers, quantizer, and padding kept apart."""

from __future__ import annotations

from snac_core.model.snac import SNAC, Reconstruction

__all__ = ["SNAC", "Reconstruction"]
