"""Fixtures of this folder."""

from __future__ import annotations

import pytest

from snac_core.codec import Codec
from tests.support.codec_spy import CodecSpy


@pytest.fixture
def watched(codec: Codec) -> CodecSpy:
    return CodecSpy(codec)
