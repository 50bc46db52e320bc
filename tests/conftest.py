"""What tests share: a small model with the 24 kHz geometry, and signals to feed it."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.model import SNAC
from snac_core.store.identity import token_space
from snac_core.types import Samples

if not torch.cuda.is_available():
    # Before anything imports it: kernels for a GPU then run in Python, on tensors of the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

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


def random_model(config: SnacConfig, seed: int = 0) -> SNAC:
    """Return a model with random weights whose codes are spread out."""
    torch.manual_seed(seed)
    return SNAC(config)


def random_codec(config: SnacConfig, seed: int = 0, **options: object) -> Codec:
    """Return a codec around `random_model`."""
    model = random_model(config, seed)
    space = token_space(config, model.state_dict())
    return Codec(model, version="test", token_space=space, **options)  # type: ignore[arg-type]


def noise(length: int, seed: int = 0) -> Samples:
    """Return ``length`` samples of noise at speech level."""
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal(length)).astype(np.float32)


@pytest.fixture(scope="session")
def tiny_codec() -> Codec:
    """A codec with the 24 kHz token geometry."""
    return random_codec(TINY)


@pytest.fixture(scope="session", params=[TINY, TINY_ATTENTION], ids=["24khz", "32khz"])
def any_codec(request: pytest.FixtureRequest) -> Codec:
    """A codec without attention, then one with."""
    return random_codec(request.param)
