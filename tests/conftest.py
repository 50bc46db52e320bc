"""What all tests share: codecs with random weights."""

from __future__ import annotations

import os

import pytest
import torch

from snac_core.codec import Codec
from tests.support.models import TINY, TINY_ATTENTION, random_codec

if not torch.cuda.is_available():
    # Before anything imports it: kernels for a GPU then run in Python, on tensors of the CPU.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def tiny_codec() -> Codec:
    """A codec with the 24 kHz token geometry."""
    return random_codec(TINY)


@pytest.fixture(scope="session", params=[TINY, TINY_ATTENTION], ids=["24khz", "32khz"])
def any_codec(request: pytest.FixtureRequest) -> Codec:
    """A codec without attention, then one with."""
    return random_codec(request.param)
