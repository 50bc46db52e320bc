"""How the server speaks WebSocket: what of uvicorn's protocol streams need otherwise."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.settings import Settings

SEND_BUFFER_BYTES = 2**17
"""What the system may hold of a stream that its client has not taken: seconds of audio."""

MOST_UNREAD_PONGS = 1000
"""Answers to pings, of 131 bytes at most, that may wait behind what a peer does not read."""


class StreamProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that holds little for a peer who does not read, and in the end lets go.

    A system's own choice of buffer is megabytes: audio that a listener who interrupts never
    hears. Closing flushes what is written, so that a peer who takes nothing would hold the
    socket and its buffers for ever. And pings are answered at once, whatever waits to be read.
    """

    _unread_pongs = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound the system's buffer."""
        super().connection_made(transport)
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def handle_ping(self) -> None:
        """Answer, unless too many answers wait already: then cut the connection."""
        self._unread_pongs = 0 if self.writable.is_set() else self._unread_pongs + 1
        if self._unread_pongs > MOST_UNREAD_PONGS:
            self.transport.abort()
        else:
            super().handle_ping()

    async def send(self, message: Any) -> None:
        """Take a refusal for an answer: it completes the handshake, too."""
        await super().send(message)
        refused = message["type"] == "websocket.http.response.body"
        self.handshake_complete |= refused and not message.get("more_body", False)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Give the peer a moment after the app has ended, then cut the connection."""
        super().on_task_complete(task)
        if not self.disconnected:
            self.loop.call_later(self.close_timeout, self.transport.abort)


def websocket_options(settings: Settings) -> dict[str, Any]:
    """Return the part of `uvicorn.Config` that streams need.

    Reading is paused while a stream holds enough, and an answer to a ping waits behind what is
    not read: so pings keep connections alive, but nobody is thrown out for a late answer; the
    stream's own idle time-out does that. PCM does not compress. A message somewhat over
    the limit is refused in words, a much larger one while it comes.
    """
    return {
        "ws": StreamProtocol,
        "ws_max_size": 2 * settings.stream_message_bytes,
        "ws_ping_timeout": None,
        "ws_per_message_deflate": False,
    }
