"""WebSocket sessions from handshake to close: access, flow control and errors.

Errors before the handshake are HTTP problems, as for any request. Later errors are a message
``{"type": "problem", "problem": {...}}`` with the same fields, followed by a close code.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import time
import uuid
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import urlsplit

import structlog
from fastapi import WebSocket
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from service.concurrency import run_until_first_complete
from service.errors import (
    DisconnectedError,
    ForbiddenError,
    NotReadyError,
    TooLargeError,
    UnauthorizedError,
)
from service.problems import INTERNAL, MEDIA_TYPE, problem, problem_type
from service.runtime.service import Service
from service.runtime.streams import Stream, StreamKind
from service.security import HEADERS, bearer_token, caller, check_api_key
from service.websocket.messages import (
    Start,
    check_start,
    dump,
    start_from_query,
)
from snac_core.codec import Codec
from snac_core.errors import TokenSpaceError
from snac_core.layouts import find_layout, token_reader

log = structlog.get_logger(__name__)

SUBPROTOCOL = "snac"
KEY_SUBPROTOCOL = "snac.key."
"""Prefix of the subprotocol with a base64url key, for browsers, which cannot set headers."""

PIECE_BYTES = 2**16
"""Largest binary message sent."""

_CLOSE_CODES = {
    400: 1007,
    413: 1009,
    415: 1007,
    422: 1007,
    429: 1013,
    500: 1011,
    503: 1013,
}
_POLICY, _RESTART = 1008, 1012
_LAST_WORDS_SECONDS = 1.0


_S = TypeVar("_S", bound=Start)


class Session(ABC, Generic[_S]):
    """One WebSocket stream; subclasses implement encoding and decoding.

    Reading and working run concurrently. Reading pauses while too much is buffered, and working
    waits in `send` while the client does not read. So a slow client stalls only its own stream,
    with bounded memory.
    """

    kind: ClassVar[StreamKind]
    start_type: type[_S]

    def __init__(self, websocket: WebSocket, service: Service, stream: Stream) -> None:
        self.service, self.stream = service, stream
        self._socket = websocket
        self._input_taken, self._may_read = asyncio.Event(), asyncio.Event()

    @classmethod
    def check(cls, codec: Codec, start: _S) -> None:
        """Check the fields of a start that depend on the model.

        Raises
        ------
        TokenSpaceError
            If the client names another token space than that of ``codec``.
        LayoutError
            For an unknown layout or an invalid base.
        """
        if start.token_space not in (None, codec.token_space):
            raise TokenSpaceError(
                f"the stream is of token space {start.token_space!r}; {codec.token_space!r} is "
                "being served"
            )
        token_reader(start.layout, codec.config, start.base)

    @abstractmethod
    def prepare(self, codec: Codec, start: _S) -> dict[str, Any]:
        """Set up the stream with ``codec``; returns the content of the message "ready"."""

    @abstractmethod
    async def take(self, message: str | bytes) -> None:
        """Process one message."""

    @abstractmethod
    async def work(self) -> dict[str, Any]:
        """Send results until the end; returns the content of the message "done"."""

    @abstractmethod
    def held_seconds(self) -> float:
        """Audio received but not processed."""

    async def run(self, start: _S | None) -> None:
        """Run the stream to its end; raises the error that ends it early."""
        await run_until_first_complete(self._exchange(start), self.stream.watch())

    async def _exchange(self, start: _S | None) -> None:
        if start is None:
            depth = self.service.settings.max_json_depth
            start = check_start(self.start_type, await self._receive(), depth)
            self.stream.touch()
        codec = self.service.models.codec
        self.check(codec, start)
        model = {"version": codec.version, "token_space": codec.token_space}
        structlog.contextvars.bind_contextvars(model=codec.version)
        ready = self.prepare(codec, start)
        await self.send_json({"type": "ready", **ready, "model": model})
        self.update_backpressure()
        await run_until_first_complete(self._work(model), self._read())

    async def _work(self, model: dict[str, str]) -> None:
        done = await self.work()
        await self.send_json({"type": "done", **done, "model": model})

    async def _read(self) -> None:
        while True:
            await self._may_read.wait()
            message = await self._receive()
            await self.take(message)
            self.update_backpressure()
            self._input_taken.set()

    async def wait_for_input(self) -> None:
        """Wait until a message has been processed since the last call."""
        await self._input_taken.wait()
        self._input_taken.clear()

    def update_backpressure(self) -> None:
        """Update the buffered seconds, and pause or resume reading accordingly."""
        self.stream.held_seconds = self.held_seconds()
        (self._may_read.clear if self.stream.full else self._may_read.set)()

    async def _receive(self) -> str | bytes:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise DisconnectedError(f"the client closed with {message.get('code')}")
        content: str | bytes | None = message.get("text")
        content = message.get("bytes") or b"" if content is None else content
        most = self.service.settings.stream_message_bytes
        if len(content) > most:
            raise TooLargeError(f"a message of {len(content)} bytes; {most} are the most")
        return content

    async def send_json(self, message: dict[str, Any]) -> None:
        """Send a text message; waits while the client does not read."""
        await self._send({"type": "websocket.send", "text": dump(message)})

    async def send_bytes(self, data: bytes) -> None:
        """Send binary messages; waits while the client does not read."""
        for start in range(0, len(data), PIECE_BYTES):
            await self._send({"type": "websocket.send", "bytes": data[start : start + PIECE_BYTES]})

    async def _send(self, message: dict[str, Any]) -> None:
        self.stream.sending = True
        try:
            await self._socket.send(message)
        except (WebSocketDisconnect, RuntimeError) as error:
            # A RuntimeError if the server has closed the connection meanwhile.
            raise DisconnectedError("the client went away") from error
        finally:
            self.stream.sending = False
        self.stream.touch()


async def serve(websocket: WebSocket, session_type: type[Session[_S]]) -> None:
    """Serve one WebSocket call to its end."""
    service: Service = websocket.app.state.service
    request_id = uuid.uuid4().hex
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    began, outcome, accepted = time.perf_counter(), "ok", False
    kind = session_type.kind
    try:
        who = _admit(websocket, service)
        start = start_from_query(session_type.start_type, websocket.query_params)
        if start is not None:
            session_type.check(service.models.codec, start)
        with service.streams.open(kind, who) as stream:
            accepted = True
            await _accept(websocket, request_id)
            try:
                await session_type(websocket, service, stream).run(start)
            except Exception as error:
                await _end(websocket, error, problem(error, request_id, websocket.url.path))
                raise
            await _close(websocket, 1000)
    except Exception as error:
        found = problem_type(error)
        outcome = found.name
        if found is INTERNAL:
            log.exception("stream failed")
        if not accepted:
            service.streams.count(kind, outcome)
            await _refuse(websocket, error, request_id)
    finally:
        log.info(
            "stream",
            path=websocket.url.path,
            outcome=outcome,
            seconds=round(time.perf_counter() - began, 4),
        )


def _admit(websocket: WebSocket, service: Service) -> str:
    """Return the caller after checking origin, key, limits and readiness."""
    settings = service.settings
    _check_origin(websocket, settings.cors_origins)
    address = websocket.client.host if websocket.client else ""
    given = _given_key(websocket)
    name = service.guesses.check(address, given, lambda: check_api_key(settings, given))
    who = caller(address, name)
    service.rates.count_request(who)
    service.lifecycle.check_ready()
    service.streams.check_open(who)
    return who


def _check_origin(websocket: WebSocket, allowed: tuple[str, ...]) -> None:
    # Browsers do not apply the same-origin policy to WebSockets; the server must check.
    origin = websocket.headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return
    try:
        host: str | None = urlsplit(origin).netloc
    except ValueError:
        host = None
    if host is None or host != websocket.headers.get("host"):
        raise ForbiddenError("pages of another origin may stream only if SNAC_CORS_ORIGINS has it")


def _given_key(websocket: WebSocket) -> str | None:
    """Return the key from the header or a subprotocol; never from the URL, which is logged."""
    given = websocket.headers.get("x-api-key")
    if given is None:
        given = bearer_token(websocket.headers.get("authorization"))
    for offered in websocket.scope["subprotocols"]:
        if given is None and offered.startswith(KEY_SUBPROTOCOL):
            coded = offered.removeprefix(KEY_SUBPROTOCOL)
            try:
                given = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise UnauthorizedError(
                    f"what follows {KEY_SUBPROTOCOL} is not a key in base64url"
                ) from None
    return given


async def _accept(websocket: WebSocket, request_id: str) -> None:
    offered = websocket.scope["subprotocols"]
    await websocket.accept(
        SUBPROTOCOL if SUBPROTOCOL in offered else None,
        [(b"x-request-id", request_id.encode())],
    )


async def _refuse(websocket: WebSocket, error: Exception, request_id: str) -> None:
    body = problem(error, request_id, websocket.url.path)
    headers = {**HEADERS, **getattr(error, "headers", {}), "X-Request-Id": request_id}
    await websocket.send_denial_response(
        Response(json.dumps(body), body["status"], headers, MEDIA_TYPE)
    )


async def _end(websocket: WebSocket, error: Exception, body: dict[str, Any]) -> None:
    if isinstance(error, DisconnectedError):
        return
    restarting = isinstance(error, NotReadyError)
    code = _RESTART if restarting else _CLOSE_CODES.get(body["status"], _POLICY)
    await _close(websocket, code, body["title"], dump({"type": "problem", "problem": body}))


async def _close(websocket: WebSocket, code: int, reason: str = "", last: str = "") -> None:
    # The client may have disconnected or stopped reading.
    with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            if last:
                await websocket.send_text(last)
            await websocket.close(code, reason)


def described(codec: Codec, layout: str, base: int | None) -> dict[str, Any]:
    """Return the fields of "ready" about the layout and the model's frames."""
    config, found = codec.config, find_layout(layout)
    return {
        "layout": found.versioned,
        "base": found.default_base if base is None else base,
        "sample_rate": codec.sample_rate,
        "frame_samples": config.frame_samples,
        "tokens_per_frame": sum(config.codes_per_frame),
        "codes_per_frame": list(config.codes_per_frame),
    }
