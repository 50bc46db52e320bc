"""A service that watches a model store, and versions to publish in it."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from running import Server, service
from torch import Tensor

from snac_core.store import ModelStore
from snac_core.store.checkpoint import Checkpoint


def watching(store: ModelStore, quiet: bool = False) -> AbstractContextManager[Server]:
    """Run `snac-service` on ``store``, which it looks at twice a second."""
    variables = {"SNAC_MODEL_STORE": str(store.root), "SNAC_RELOAD_INTERVAL": "0.5"}
    return service(quiet=quiet, **variables)


def another_decoder(checkpoint: Checkpoint, seed: int) -> dict[str, Tensor]:
    """Return the weights with a decoder that differs a little: the same token space."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value * (1 + 1e-3 * torch.randn(value.shape, generator=generator)).to(value.dtype)
        if key.startswith("decoder.")
        else value
        for key, value in checkpoint.weights.items()
    }
