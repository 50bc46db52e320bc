"""How the server speaks WebSocket: what of uvicorn's protocol streams need otherwise."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.settings import Settings

if TYPE_CHECKING:
    from websockets.frames import Frame

SEND_BUFFER_BYTES = 2**17
"""What the system may hold of a stream that its client has not taken: seconds of audio."""

MOST_UNREAD_PONGS = 1000
"""Answers to pings, of 131 bytes at most, that may wait behind what a peer does not read."""


_BAD_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

PIECE_BYTES = 4096
"""Bytes parsed at a time: hundreds of the smallest messages, or a part of a large one."""

MOST_FRAGMENTS = 4096
"""Frames of one message. Empty ones would otherwise cost memory and never count as bytes."""


class StreamProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that holds little for a peer who does not read, and in the end lets go.

    A system's own choice of buffer is megabytes: audio that a listener who interrupts never
    hears. Closing flushes what is written, so that a peer who takes nothing would hold the
    socket and its buffers for ever. And pings are answered at once, whatever waits to be read.
    """

    _unread_pongs = 0
    _unparsed = b""
    _parsing: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound the system's buffer."""
        super().connection_made(transport)
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Parse piece by piece, with other connections' turns in between."""
        if not self.handshake_initiated:
            super().data_received(data)
            return
        self._unparsed += data
        if self._parsing is None:
            self._parse()

    def _parse(self) -> None:
        """Parse the next piece, unless messages wait to be taken: `receive` goes on then."""
        self._parsing = None
        if self.disconnected or self.transport.is_closing():
            self._unparsed = b""
            return
        if self._unparsed and self._may_parse():
            piece, self._unparsed = self._unparsed[:PIECE_BYTES], self._unparsed[PIECE_BYTES:]
            super().data_received(piece)
        if self._unparsed and self._may_parse():
            self._parsing = self.loop.call_soon(self._parse)
        self._read_or_pause()

    def _may_parse(self) -> bool:
        return self.close_sent or self.queue.empty()

    def _read_or_pause(self) -> None:
        """Read from the peer only while nothing that has come waits."""
        pause = bool(self._unparsed) or not self._may_parse()
        if pause != self.read_paused and not self.transport.is_closing():
            (self.transport.pause_reading if pause else self.transport.resume_reading)()
            self.read_paused = pause

    async def receive(self) -> Any:
        """Return the next message, after a turn for others: messages may be many and empty."""
        await asyncio.sleep(0)
        message = await self.queue.get()
        if self.queue.empty():
            if self._unparsed and self._parsing is None:
                self._parsing = self.loop.call_soon(self._parse)
            self._read_or_pause()
        return message

    def handle_cont(self, event: Frame) -> None:
        """Take one more part of a message, if it has not too many."""
        if len(self.frames) >= MOST_FRAGMENTS:
            self.conn.fail(1009, f"a message may have {MOST_FRAGMENTS} frames")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def refuse(self) -> None:
        """Answer a handshake that the parser did not take, and end the connection."""
        answer = b"".join(self.conn.data_to_send())
        self.transport.write(answer or _BAD_HANDSHAKE)
        self.handshake_complete = self.close_sent = True
        self.transport.close()

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
    not read: so pings keep connections alive, but no client is disconnected for a late answer; the
    stream's own idle time-out does that. PCM does not compress. A message somewhat over
    the limit is refused in words, a much larger one while it comes.
    """
    return {
        "ws": StreamProtocol,
        "ws_max_size": 2 * settings.stream_message_bytes,
        "ws_ping_timeout": None,
        "ws_per_message_deflate": False,
    }
