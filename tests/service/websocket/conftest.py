"""Fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.streams import (
    FRAME_SECONDS,
    KEY,
)


@pytest.fixture(scope="module")
def strict(serve: Any, model_ref: str) -> Iterator[Any]:
    """A server whose bounds are near."""
    with serve(
        model=model_ref,
        device="cpu",
        max_streams=2,
        stream_buffer_seconds=1.0,
        stream_message_bytes=4096,
        max_queue_seconds=1.5 * FRAME_SECONDS,
        api_key=KEY,
    ) as running:
        yield running
