"""Worker processes of one service: their shared port, metrics and reloads."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import structlog

from service.errors import ReloadError
from service.settings import Settings

log = structlog.get_logger(__name__)

RELOAD_SECONDS = 120.0
"""How long another worker may take to reload."""

METRICS_SECONDS = 3.0
"""How long another worker may take to return its metrics."""


@dataclasses.dataclass(frozen=True)
class Worker:
    """One of several processes, and the folder with the sockets of all.

    A ``replacement`` for a worker that ended listens only once its model is loaded.
    """

    number: int
    count: int
    folder: Path
    replacement: bool = False

    def listen(self, settings: Settings) -> list[socket.socket]:
        """Open a socket on the shared port, and one for the other workers."""
        own = socket.socket(socket.AF_UNIX)
        self._path(self.number).unlink(missing_ok=True)
        own.bind(str(self._path(self.number)))
        return [shared_port(settings.host, settings.port), own]

    def announce(self) -> None:
        """Record for the supervisor that this worker has served."""
        served(self.folder, self.number).touch()

    def beat(self) -> None:
        """Give the process that started it a sign of life, once it has served."""
        path = served(self.folder, self.number)
        if path.exists():
            os.utime(path)

    async def others_metrics(self) -> dict[int, str]:
        """Return the metrics of the other workers that answer in time."""
        answers = await self._ask_others("GET", "/metrics", {}, METRICS_SECONDS)
        return {
            number: answer.text
            for number, answer in answers.items()
            if isinstance(answer, httpx.Response) and answer.status_code == 200
        }

    async def reload_others(self, query: str, admin_key: str | None) -> None:
        """Make every other worker check the model store.

        An unreachable worker is being restarted and will load the current version.

        Raises
        ------
        ReloadError
            Naming the workers that did not load the version, or did not answer in time.
        """
        headers = {} if admin_key is None else {"X-Admin-Key": admin_key}
        path = f"/v1/models/reload?{query}"
        answers = await self._ask_others("POST", path, headers, RELOAD_SECONDS)
        failed = {}
        for number, answer in answers.items():
            if isinstance(answer, httpx.TimeoutException):
                failed[number] = f"no answer within {RELOAD_SECONDS:g} s"
            elif isinstance(answer, httpx.Response) and not answer.is_success:
                failed[number] = answer.json()["detail"]
        if failed:
            raise ReloadError(f"worker {self.number} serves it, others do not: {failed}")

    async def _ask_others(
        self, method: str, path: str, headers: dict[str, str], timeout: float
    ) -> dict[int, httpx.Response | httpx.TransportError]:
        others = [number for number in range(self.count) if number != self.number]
        answers = await asyncio.gather(
            *(self._ask(number, method, path, headers, timeout) for number in others)
        )
        return dict(zip(others, answers, strict=True))

    async def _ask(
        self, number: int, method: str, path: str, headers: dict[str, str], timeout: float
    ) -> httpx.Response | httpx.TransportError:
        transport = httpx.AsyncHTTPTransport(uds=str(self._path(number)))
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as http:
            try:
                return await http.request(method, path, headers=headers, timeout=timeout)
            except httpx.TransportError as error:
                log.warning("a worker does not answer", worker=number, reason=repr(error))
                return error

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.sock"


def served(folder: Path, number: int) -> Path:
    """Return the file that exists once a worker has served."""
    return folder / f"{number}.served"


def shared_port(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address that other processes of this user may bind too."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    shared = socket.socket(family, kind, protocol)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    shared.bind(address)
    return shared


@contextlib.contextmanager
def only_service(host: str, port: int) -> Iterator[None]:
    """Be the only one of this user's services of several workers at an address, for the block.

    Sockets of a shared port let any process of the same user share it, and the kernel would
    spread clients over two services with two models. A name that only one process can have goes
    with the process, however it ends.

    Raises
    ------
    OSError
        If there is another.
    """
    with socket.socket(socket.AF_UNIX) as name:
        name.bind(f"\0snac-service-{os.getuid()}-{host}-{port}")
        yield
