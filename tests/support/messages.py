"""WebSocket streams, message by message."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import settings
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_pinging

from snac_core.codec import Codec
from snac_core.codes import Codes

# An answer to a ping may wait behind what the service does not read yet.
connect = functools.partial(connect_pinging, ping_interval=None)


LAYOUTS = ("hierarchical", "flat", "orpheus", "mini-omni")


END = {"type": "end"}


relaxed = settings(max_examples=25, deadline=None)


@contextlib.contextmanager
def opened(running: Any, call: str, start: dict[str, Any] | None, **how: Any) -> Iterator[Any]:
    """Open a stream, with a start message or, as ``query``, with one in the URL."""
    query = how.pop("query", "")
    url = f"{running.url.replace('http', 'ws')}/v1/stream/{call}{query}"
    with connect(url, max_size=None, **how) as stream:
        if start is not None:
            stream.send(json.dumps({"type": "start", **start}))
        yield stream


def say(stream: ClientConnection, *messages: Any) -> None:
    for message in messages:
        stream.send(message if isinstance(message, bytes) else json.dumps(message))


def hear(stream: ClientConnection) -> tuple[list[bytes], list[dict[str, Any]], int | None]:
    """Return binary messages, text messages and the close code, once the stream is closed."""
    data: list[bytes] = []
    said: list[dict[str, Any]] = []
    try:
        while True:
            message = stream.recv(300)
            if isinstance(message, bytes):
                data.append(message)
            else:
                said.append(json.loads(message))
    except ConnectionClosed:
        return data, said, stream.close_code


def codes_of(codec: Codec, frames: int, seed: int = 0, left_out: int = 0) -> Codes:
    random = np.random.default_rng(seed)
    levels = tuple(
        random.integers(0, codec.config.codebook_size, frames * count).astype(np.int32)
        for count in codec.config.codes_per_frame
    )
    return Codes(levels, frames * codec.config.frame_samples - left_out, codec.sample_rate)
