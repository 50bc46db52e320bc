"""A client in Python, synchronous and asyncio."""

from __future__ import annotations

from service.client.aio import AsyncSnacClient
from service.client.calls import Encoded, ProblemError
from service.client.streams import AsyncStream, Stream, StreamClosedError
from service.client.sync import SnacClient

__all__ = [
    "AsyncSnacClient",
    "AsyncStream",
    "Encoded",
    "ProblemError",
    "SnacClient",
    "Stream",
    "StreamClosedError",
]
