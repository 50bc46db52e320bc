"""Models and signals that tests share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.model import SNAC
from snac_core.store import ModelStore
from snac_core.store.identity import token_space
from snac_core.types import Samples

TINY = SnacConfig(encoder_dim=8, decoder_dim=32)
"""Token geometry and receptive field of snac_24khz, a thousandth of its arithmetic."""

TINY_ATTENTION = SnacConfig(
    sampling_rate=32000,
    encoder_dim=4,
    encoder_rates=(2, 3, 8, 8),
    decoder_dim=64,
    decoder_rates=(8, 8, 3, 2),
    attn_window_size=32,
    vq_strides=(8, 4, 2, 1),
)
"""Token geometry and receptive field of snac_32khz."""


TINY_8KHZ = SnacConfig(
    sampling_rate=8000,
    encoder_dim=4,
    encoder_rates=(4, 8),
    decoder_dim=16,
    decoder_rates=(8, 4),
    codebook_size=64,
    codebook_dim=4,
    vq_strides=(2, 1),
)
"""As small as a model can well be: what stores and commands are tested with."""


def random_weights(config: SnacConfig, seed: int = 0) -> dict[str, Tensor]:
    """Return the weights of `random_model`."""
    return random_model(config, seed).state_dict()


def random_model(config: SnacConfig, seed: int = 0) -> SNAC:
    """Return a model with random weights whose codes are spread out."""
    torch.manual_seed(seed)
    return SNAC(config)


def unfinished(store: ModelStore) -> list[str]:
    """Return the names of what publishers that died have left in ``store``."""
    return [path.name for path in store.root.rglob(".tmp-*")]


def random_codec(config: SnacConfig, seed: int = 0, **options: object) -> Codec:
    """Return a codec around `random_model`."""
    model = random_model(config, seed)
    space = token_space(config, model.state_dict())
    return Codec(model, version="test", token_space=space, **options)  # type: ignore[arg-type]


def noise(length: int, seed: int = 0) -> Samples:
    """Return ``length`` samples of noise at speech level."""
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal(length)).astype(np.float32)
