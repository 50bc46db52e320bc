"""WebSocket streams of random tokens."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_pinging

from snac_core.codec import Codec
from snac_core.codes import Codes

# An answer to a ping may wait behind what the service does not read yet.
connect = functools.partial(connect_pinging, ping_interval=None)


KEY = "an API key"


END = '{"type":"end"}'


FLAT = "?layout=flat&format=f32le"


FRAME_SECONDS = 2048 / 24000


def ws(running: Any, path: str = f"/v1/stream/decode{FLAT}") -> str:
    return str(running.url.replace("http", "ws")) + path


def hear(stream: ClientConnection) -> tuple[bytes, list[dict[str, Any]], int | None]:
    """Return the binary messages joined, the text messages, and the close code."""
    data, said = b"", []
    try:
        while True:
            message = stream.recv(300)
            if isinstance(message, bytes):
                data += message
            else:
                said.append(json.loads(message))
    except ConnectionClosed:
        return data, said, stream.close_code


def tokens_of(codec: Codec, frames: int, seed: int = 0) -> npt.NDArray[np.int32]:
    count = sum(codec.config.codes_per_frame)
    return np.random.default_rng(seed).integers(0, 4096, (frames, count)).astype("<i4")


def audio_of(codec: Codec, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    order = ([0], [1, 4], [2, 3, 5, 6])
    levels = tuple(np.ascontiguousarray(tokens[:, place].reshape(-1)) for place in order)
    return codec.decode([Codes(levels, 2048 * len(tokens), 24000)])[0]


def refusal(running: Any, **how: Any) -> tuple[int, dict[str, Any], Any]:
    with pytest.raises(InvalidStatus) as raised, connect(ws(running), **how):
        pass
    answer = raised.value.response
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return answer.status_code, json.loads(answer.body), answer.headers
