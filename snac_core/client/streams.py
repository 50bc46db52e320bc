"""Streams of the Python clients: an iterable of tokens or samples in, an iterator of results out.

docs/streaming.md describes the messages. Sending runs in a separate thread or task, so that input
and output are independent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt
import websockets.asyncio.client
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus

from snac_core.client.calls import ProblemError, problem_error
from snac_core.client.inputs import mono, plain_tokens
from snac_core.types import Samples

T = TypeVar("T")
Tokens = Any
"""A number, a list, a list of lists, or an integer array, depending on the layout."""

Levels = tuple[npt.NDArray[np.int64], ...]

Pause = Callable[[int, str | None, int], float | None]
"""Maps status, ``Retry-After`` and attempt to seconds until the next attempt, or None."""


class StreamClosedError(ConnectionError):
    """A stream that was closed before its end; ``code`` is the WebSocket close code."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the stream was closed with {code} before its end")
        self.code = code


class StreamExchange(Generic[T]):
    """The messages of one stream, independent of the transport.

    Parameters
    ----------
    url
        URL of the service.
    path
        Path of the call.
    start
        Fields of the start, sent as URL parameters; None values are omitted.
    write, read
        Convert an item to a message, and a message to a result or None.
    """

    def __init__(
        self,
        url: str,
        path: str,
        start: dict[str, Any],
        write: Callable[[Any], str | bytes],
        read: Callable[[str | bytes], T | None],
    ) -> None:
        query = urlencode({name: value for name, value in start.items() if value is not None})
        self.url = f"ws{url.removeprefix('http')}{path}?{query}"
        self.ready: dict[str, Any] | None = None
        self.done: dict[str, Any] | None = None
        self.write, self._read = write, read

    end = '{"type":"end"}'

    def read(self, message: str | bytes) -> T | None:
        """Return the result in a server message, or None; raises ProblemError."""
        if isinstance(message, str):
            said = json.loads(message)
            if said["type"] == "problem":
                raise ProblemError(said["problem"]["status"], said["problem"])
            if said["type"] == "ready":
                self.ready = said
                return None
            if said["type"] == "done":
                self.done = said
                return None
        return self._read(message)


class StreamInfo:
    """The messages "ready" and "done" of a stream."""

    def __init__(self, exchange: StreamExchange[Any]) -> None:
        self._exchange = exchange

    @property
    def ready(self) -> dict[str, Any] | None:
        """The message "ready"; None before the first result."""
        return self._exchange.ready

    @property
    def done(self) -> dict[str, Any] | None:
        """The message "done"; None before the end."""
        return self._exchange.done


class Stream(StreamInfo, Iterator[T]):
    """An iterator over the results of a stream."""

    def __init__(self, exchange: StreamExchange[T], results: Iterator[T]) -> None:
        super().__init__(exchange)
        self._results = results

    def __next__(self) -> T:
        return next(self._results)

    def close(self) -> None:
        """Close the stream before its end."""
        self._results.close()  # type: ignore[attr-defined]


class AsyncStream(StreamInfo, AsyncIterator[T]):
    """An asynchronous iterator over the results of a stream."""

    def __init__(self, exchange: StreamExchange[T], results: AsyncIterator[T]) -> None:
        super().__init__(exchange)
        self._results = results

    async def __anext__(self) -> T:
        return await anext(self._results)

    async def aclose(self) -> None:
        """Close the stream before its end."""
        await self._results.aclose()  # type: ignore[attr-defined]


def decoding(url: str, options: dict[str, Any]) -> StreamExchange[Samples]:
    """Return the exchange of a decoding stream: tokens to float32 samples."""
    start = {**options, "format": "f32le"}
    return StreamExchange(url, "/v1/stream/decode", start, _write_tokens, _read_samples)


def encoding(url: str, options: dict[str, Any]) -> StreamExchange[Any]:
    """Return the exchange of an encoding stream: float samples to codes."""
    start = {**options, "encoding": "f32le"}
    return StreamExchange(url, "/v1/stream/encode", start, _write_samples, _read_codes)


def run(
    exchange: StreamExchange[T],
    items: Iterable[Any],
    headers: dict[str, str],
    timeout: float,
    pause: Pause,
) -> Iterator[T]:
    """Run ``exchange`` on a new connection; a separate thread draws and sends the items."""
    failures: list[BaseException] = []
    with contextlib.ExitStack() as stack:
        connection = _connected(stack, exchange.url, headers, pause)

        def send() -> None:
            try:
                for item in items:
                    connection.send(exchange.write(item))
                connection.send(exchange.end)
            except ConnectionClosed:
                pass  # the receiving side raises the reason
            except BaseException as error:  # noqa: BLE001 - raised by the receiving side
                failures.append(error)
                connection.close()

        threading.Thread(target=send, name="snac-stream", daemon=True).start()
        try:
            while True:
                result = exchange.read(connection.recv(timeout))
                if result is not None:
                    yield result
        except ConnectionClosed as error:
            _check_end(exchange, error, failures)


async def run_async(
    exchange: StreamExchange[T],
    items: Iterable[Any] | AsyncIterable[Any],
    headers: dict[str, str],
    timeout: float,
    pause: Pause,
) -> AsyncIterator[T]:
    """Run ``exchange`` on a new connection; a separate task draws and sends the items."""
    failures: list[BaseException] = []
    async with contextlib.AsyncExitStack() as stack:
        connection = await _connected_async(stack, exchange.url, headers, pause)

        async def send() -> None:
            try:
                if isinstance(items, AsyncIterable):
                    async for item in items:
                        await connection.send(exchange.write(item))
                else:
                    for item in items:
                        await connection.send(exchange.write(item))
                await connection.send(exchange.end)
            except ConnectionClosed:
                pass  # the receiving side raises the reason
            except Exception as error:  # noqa: BLE001 - raised by the receiving side
                failures.append(error)
                await connection.close()

        sender = asyncio.create_task(send())
        try:
            while True:
                async with asyncio.timeout(timeout):
                    message = await connection.recv()
                result = exchange.read(message)
                if result is not None:
                    yield result
        except ConnectionClosed as error:
            _check_end(exchange, error, failures)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)


def _connected(
    stack: contextlib.ExitStack, url: str, headers: dict[str, str], pause: Pause
) -> websockets.sync.client.ClientConnection:
    attempt = 0
    while True:
        try:
            opening = websockets.sync.client.connect(url, additional_headers=headers, **_OPTIONS)
            connection: websockets.sync.client.ClientConnection = stack.enter_context(opening)
            return connection
        except InvalidStatus as error:
            time.sleep(_pause(error, pause, attempt))
        attempt += 1


async def _connected_async(
    stack: contextlib.AsyncExitStack, url: str, headers: dict[str, str], pause: Pause
) -> websockets.asyncio.client.ClientConnection:
    attempt = 0
    while True:
        try:
            return await stack.enter_async_context(
                websockets.asyncio.client.connect(url, additional_headers=headers, **_OPTIONS)
            )
        except InvalidStatus as error:
            await asyncio.sleep(_pause(error, pause, attempt))
        attempt += 1


# Pongs and the reply to a close wait behind unread data, so pings would time out; the service has
# an idle timeout of its own. Codes and samples do not compress.
_OPTIONS: dict[str, Any] = {"ping_interval": None, "close_timeout": 1, "compression": None}


def _pause(refused: InvalidStatus, pause: Pause, attempt: int) -> float:
    answer = refused.response
    seconds = pause(answer.status_code, answer.headers.get("Retry-After"), attempt)
    if seconds is None:
        raise problem_error(
            answer.status_code, answer.reason_phrase, bytes(answer.body or b"")
        ) from None
    return seconds


def _check_end(
    exchange: StreamExchange[Any], closed: ConnectionClosed, failures: list[BaseException]
) -> None:
    """Raise the error of the caller's items, or StreamClosedError if the stream was incomplete."""
    if failures:
        raise failures[0]
    if exchange.done is None or not isinstance(closed, ConnectionClosedOK):
        raise StreamClosedError(closed.rcvd.code if closed.rcvd else None) from closed


def _write_tokens(tokens: Tokens) -> str | bytes:
    if isinstance(tokens, np.ndarray) and tokens.ndim == 1 and tokens.dtype.kind in "iu":
        narrow = tokens.astype("<i4")
        if np.array_equal(narrow, tokens):
            return narrow.tobytes()
        # The service names the token that is out of range.
    return json.dumps(plain_tokens(tokens))


def _read_samples(message: str | bytes) -> Samples | None:
    return np.frombuffer(message, "<f4") if isinstance(message, bytes) else None


def _write_samples(samples: Samples) -> bytes:
    return mono(samples).astype("<f4").tobytes()


def _read_codes(message: str | bytes) -> Levels | npt.NDArray[np.int64] | list[str] | None:
    said = json.loads(message)
    if said["type"] != "codes":
        return None
    codes = said["codes"]
    if codes and isinstance(codes[0], str):
        return list(codes)
    if codes and isinstance(codes[0], list):
        return tuple(np.array(lane, np.int64) for lane in codes)
    return np.array(codes, np.int64)
