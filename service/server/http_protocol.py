"""Clients that are too slow: with the head of a request, with its body, or to take the answer.

Bodies are watched where they are read, so that the client gets a problem that says so. Heads
and answers are watched at the connection, which is cut.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

from fastapi import FastAPI
from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.observability.metrics import Metrics
from service.server.websocket_protocol import StreamProtocol, websocket_options
from service.settings import Settings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

PIECE_BYTES = 4096
"""Bytes parsed at a time where requests may be many; all that is left of a body at once."""

MOST_WAITING_BYTES = 2**20
"""Bytes of requests that may wait behind one that is being answered; one read brings fewer."""


class TimeoutHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds on a request's head and on how long an answer may lie unread.

    One request of a connection is under way at a time. What comes behind it waits unparsed, and
    no more is read.

    What is no body, trailers and the lines between chunks, has the bound of a head; and a request
    that goes on after its answer must end within the time that a head has.
    """

    header_timeout = 15.0
    write_timeout = 60.0
    min_rate = 1000.0
    max_header_bytes = 64 * 2**10

    _in_head = True
    _head_bytes = 0
    _head_size = 0
    _body_left = 0
    _piece = b""
    _unparsed = b""
    _running: RequestResponseCycle | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request soon."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._stop(self._head_timer, self._write_timer)
        self._unparsed = b""
        self.pipeline.clear()
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def count_refusal(self, reason: str) -> None:
        """Count a connection that is ended without a request having been answered."""

    def data_received(self, data: bytes) -> None:
        """Parse what has come, up to the first request that has to wait for another's answer."""
        self._unparsed += data
        while self._unparsed and not self.pipeline and self._speaks():
            size = PIECE_BYTES if self._in_head else max(PIECE_BYTES, self._body_left)
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            self._parse(piece)
        if len(self._unparsed) > MOST_WAITING_BYTES:
            self.count_refusal("pipelining")
            _reset(self.transport)
        elif self._unparsed and self._speaks():
            self.flow.pause_reading()

    def _parse(self, data: bytes) -> None:
        """Count what belongs to no body, and refuse what has no end."""
        self._piece = data
        self._head_bytes += len(data)
        if self._in_head and not self._answering:
            self._await_head()
        super().data_received(data)
        if not self._speaks():
            return
        if self._head_bytes > self.max_header_bytes:
            if self._in_head and not self._answering:
                self.send_400_response("")
            else:
                self.count_refusal("header-bytes")
                _reset(self.transport)
        elif self.cycle is not None and not self._answering:
            # Any byte ends uvicorn's keep-alive timer, also one that belongs to no new request.
            self._await_head()

    @property
    def _answering(self) -> bool:
        """Whether a request is under way: what comes meanwhile may come slowly."""
        return self.cycle is not None and not self.cycle.response_complete

    def _speaks(self) -> bool:
        """Whether this protocol still has the connection."""
        return not self.transport.is_closing() and self.transport.get_protocol() is self

    def on_message_begin(self) -> None:
        """Count the head of another request."""
        super().on_message_begin()
        self._head_size = self._body_left = 0

    def on_url(self, url: bytes) -> None:
        """Count the target."""
        self._head_size += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a line, and note how long the body is."""
        self._head_size += len(name) + len(value) + 4
        if name.lower() == b"content-length" and value.isdigit():
            self._body_left = int(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._head_size > self.max_header_bytes:
            raise ValueError("the head is too large")  # the parser's caller refuses it
        if self._upgrade_ignored:
            return
        self._in_head, self._head_bytes = False, 0
        self._stop(self._head_timer)
        self._head_timer = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Others count bodies."""
        self._head_bytes = 0
        self._body_left = max(0, self._body_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What comes next is another head; uvicorn's keep-alive timer waits for its first byte."""
        self._in_head = True
        if not self._upgrade_ignored:
            super().on_message_complete()

    @property
    def _upgrade_ignored(self) -> bool:
        """Whether the head that was parsed asks for a protocol that is not spoken, such as h2c."""
        method = self.parser.get_method()
        return self.parser.should_upgrade() and not self._should_upgrade() and method != b"CONNECT"

    def _unsupported_upgrade_warning(self) -> None:
        """Read the request again without its wish for another protocol (RFC 9110, section 7.8).

        The parser ends at such a head, whatever body follows it.
        """
        upgrade = sys.exception()
        if not isinstance(upgrade, HttpParserUpgrade) or not self._upgrade_ignored:
            return
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = [b"%b %b HTTP/%b" % (method, self.url, version.encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(
                    token
                    for token in value.split(b",")
                    if token.strip().lower() not in (b"upgrade", b"http2-settings")
                )
            if value and name not in (b"upgrade", b"http2-settings"):
                head.append(b"%b: %b" % (name, value))
        after = self._piece[upgrade.args[0] :]
        self._unparsed = b"\r\n".join([*head, b"", b""]) + after + self._unparsed
        self._head_bytes = 0
        self.parser = HttpRequestParser(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP or has too large a head, and count it."""
        large = max(self._head_size, self._head_bytes) > self.max_header_bytes
        if large:
            msg = f"A head may have at most {self.max_header_bytes} bytes."
        self.count_refusal("header-bytes" if large else "malformed")
        super().send_400_response(msg)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """The answer is written as far as uvicorn cares; see it leave."""
        super().on_response_complete()
        self._watch_writing()
        if self.pipeline:
            self.flow.pause_reading()
        elif self._unparsed and self._speaks():
            self.loop.call_soon(self.data_received, b"")

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
        if self._answering:
            self.count_refusal("handshake")
            _reset(self.transport)
            return
        if any(name == b"transfer-encoding" for name, _ in self.headers) or self._body_left:
            self.count_refusal("handshake")
            super().send_400_response("A WebSocket handshake has no body.")
            return
        # The service reads no cookies, and one of 9 kB exceeds the line limit of a handshake.
        self.scope["headers"] = [line for line in self.headers if line[0] != b"cookie"]
        super().handle_websocket_upgrade()
        protocol = self.transport.get_protocol()
        if isinstance(protocol, StreamProtocol) and not protocol.handshake_initiated:
            self.count_refusal("handshake")
            protocol.refuse()

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


def protocol(settings: Settings, metrics: Metrics) -> type[TimeoutHttpProtocol]:
    """Return the protocol with the bounds that ``settings`` give it."""

    class Bounded(TimeoutHttpProtocol):
        header_timeout = settings.header_timeout
        write_timeout = settings.write_timeout
        min_rate = settings.min_rate
        max_header_bytes = settings.max_header_bytes

        def count_refusal(self, reason: str) -> None:
            metrics.connections_refused.labels(reason=reason).inc()

    return Bounded


def server_config(app: FastAPI, settings: Settings) -> Config:
    """Return how uvicorn is to serve ``app``."""
    return Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol(settings, app.state.service.metrics),
        **websocket_options(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.drain_timeout,
    )
