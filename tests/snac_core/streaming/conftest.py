"""Codecs of all shapes."""

from __future__ import annotations

import pytest

from snac_core.codec import Codec
from tests.snac_core.streaming.clips import CONFIGS
from tests.support.models import random_codec

# Some also as a machine without compiled kernels runs them.
WAYS = [(name, "auto") for name in CONFIGS] + [("24khz", "off"), ("narrow-attention", "off")]


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def codec(request: pytest.FixtureRequest) -> Codec:
    name, compile = request.param
    return random_codec(CONFIGS[name], compile=compile)
