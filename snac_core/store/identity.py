"""Two hashes that say what a model is: which codes it makes, and which weights it has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.store.weights import canonical

# The rest of the configuration shapes the decoder only, or follows from these.
_DECIDES_CODES = (
    "sampling_rate",
    "encoder_dim",
    "encoder_rates",
    "attn_window_size",
    "codebook_size",
    "codebook_dim",
    "vq_strides",
    "depthwise",
)


def token_space(config: SnacConfig, state_dict: Mapping[str, Tensor]) -> str:
    """Return 12 hex characters that two models share only if they give the same codes.

    They hash the encoder, the quantizer and what configures them. A model whose decoder
    alone was fine-tuned keeps its token space; its codes and another's are interchangeable.

    Parameters
    ----------
    config
        The model's configuration.
    state_dict
        Its weights, in any form that `snac_core.weights.build` accepts: values count,
        not whether they are stored in half or single precision.
    """
    fields = {name: config.to_dict()[name] for name in _DECIDES_CODES}
    deciding = {
        key: value
        for key, value in state_dict.items()
        if key.startswith(("encoder.", "quantizer."))
    }
    return _digest(fields, deciding)[:12]


def content_hash(config: SnacConfig, state_dict: Mapping[str, Tensor]) -> str:
    """Return 8 hex characters over the whole configuration and all weights."""
    fields = {**config.to_dict(), "latent_dim": config.latent_channels}
    return _digest(fields, state_dict)[:8]


def _digest(fields: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> str:
    """Return a sha256 over names, shapes and little-endian float32 values, in name order."""
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for key, value in sorted(canonical(state_dict).items()):
        digest.update(f"\n{key} {list(value.shape)}\n".encode())
        digest.update(value.float().numpy().astype("<f4", copy=False).reshape(-1).data)
    return digest.hexdigest()
