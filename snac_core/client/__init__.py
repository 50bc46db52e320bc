"""A client in Python, synchronous and asyncio."""

from __future__ import annotations

from snac_core.client.aio import AsyncSnacClient
from snac_core.client.calls import Encoded, EncodedTokens, ProblemError, Reconstructed
from snac_core.client.streams import AsyncStream, Stream, StreamClosedError
from snac_core.client.sync import SnacClient

__all__ = [
    "AsyncSnacClient",
    "AsyncStream",
    "Encoded",
    "EncodedTokens",
    "ProblemError",
    "Reconstructed",
    "SnacClient",
    "Stream",
    "StreamClosedError",
]
