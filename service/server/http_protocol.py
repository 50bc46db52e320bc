"""Clients that are too slow: with the head of a request, with its body, or to take the answer.

Bodies are watched where they are read, so that the client gets a problem that says so. Heads
and answers are watched at the connection, which is cut.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.server.websocket_protocol import websocket_options
from service.settings import Settings


class TimeoutHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds on a request's head and on how long an answer may lie unread.

    What is no body, trailers and the lines between chunks, has the bound of a head; and a request
    that goes on after its answer must end within the time that a head has.
    """

    header_timeout = 15.0
    write_timeout = 60.0
    min_rate = 1000.0
    max_header_bytes = 64 * 2**10

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request soon."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._stop(self._head_timer, self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to no body, and refuse what has no end."""
        self._head_bytes += len(data)
        if self._in_head:
            self._await_head()
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self._head_bytes > self.max_header_bytes:
            if self._in_head:
                self.send_400_response(f"A head may have at most {self.max_header_bytes} bytes.")
            else:
                _reset(self.transport)
        elif self.cycle is not None and self.cycle.response_complete:
            # Any byte ends uvicorn's keep-alive timer, also one that belongs to no new request.
            self._await_head()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head, self._head_bytes = False, 0
        self._stop(self._head_timer)
        self._head_timer = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Others count bodies."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What comes next is another head; uvicorn's keep-alive timer waits for its first byte."""
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is written as far as uvicorn cares; see it leave."""
        super().on_response_complete()
        self._watch_writing()

    def pause_writing(self) -> None:
        """More is written than the client takes."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """The client has taken nearly all of it."""
        super().resume_writing()
        self._stop(self._write_timer)
        self._write_timer = None

    def handle_websocket_upgrade(self) -> None:
        """Hand over to a protocol with limits of its own."""
        self._stop(self._head_timer, self._write_timer)
        super().handle_websocket_upgrade()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.header_timeout, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _watch_writing(self) -> None:
        left = self.transport.get_write_buffer_size()
        if self._write_timer is None and left:
            self._write_timer = self.loop.call_later(self.write_timeout, self._check_written, left)

    def _check_written(self, before: int) -> None:
        self._write_timer = None
        left = self.transport.get_write_buffer_size()
        if left and before - left < max(1.0, self.min_rate * self.write_timeout):
            _reset(self.transport)
        else:
            self._watch_writing()

    @staticmethod
    def _stop(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()


def _reset(transport: asyncio.Transport) -> None:
    """End a connection and have the kernel forget what it still holds for it."""
    fileno = transport.get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(fileno)) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def protocol(settings: Settings) -> type[TimeoutHttpProtocol]:
    """Return the protocol with the bounds that ``settings`` give it."""

    class Bounded(TimeoutHttpProtocol):
        header_timeout = settings.header_timeout
        write_timeout = settings.write_timeout
        min_rate = settings.min_rate
        max_header_bytes = settings.max_header_bytes

    return Bounded


def server_config(app: ASGIApp, settings: Settings) -> Config:
    """Return how uvicorn is to serve ``app``."""
    return Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol(settings),
        **websocket_options(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.drain_timeout,
    )
