"""Run the service in this process."""

from __future__ import annotations

import asyncio
import gc
import json
import shlex
import signal
import socket
import sys
import time
from pathlib import Path

import structlog
import uvicorn
from pydantic import ValidationError

import snac_core.utils.openmp  # noqa: F401 - before torch
from service.app import create_app
from service.observability import logs
from service.runtime.lifecycle import ENGINE_DEAD
from service.runtime.peers import Worker
from service.runtime.service import Service
from service.server.http_protocol import server_config
from service.settings import Settings
from snac_core.config import SnacConfig
from snac_core.errors import SnacError
from snac_core.utils.malloc import share_freed_memory

log = structlog.get_logger(__name__)


TICKS_A_SECOND = 10


class Server(uvicorn.Server):
    """uvicorn that announces its model, and turns not ready before it stops listening."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._announced = False

    async def on_tick(self, counter: int) -> bool:
        """Log the model and example commands once it is loaded; exit if loading failed."""
        lifecycle = self._service.lifecycle
        if lifecycle.started and not self._announced:
            self._announced = True
            _announce(self._service, self.servers[0].sockets[0].getsockname()[1])
            if self._service.worker is not None:
                self._service.worker.announce()
        if self._service.worker is not None and counter % TICKS_A_SECOND == 0:
            self._service.worker.beat()
        dead = self._service.worker is not None and not self._service.engine.alive
        return await super().on_tick(counter) or dead or lifecycle.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Fail the readiness probe for ``SNAC_DRAIN_DELAY``, then stop listening and drain."""
        lifecycle = self._service.lifecycle
        if lifecycle.started:
            # With a dead engine there is nothing to drain; other workers take new requests.
            dead = self._service.engine.died
            delay = 0.0 if dead else self._service.settings.drain_delay
            lifecycle.stopping = True
            log.info("stopping", drain_delay=delay)
            await asyncio.sleep(delay)
            await self._drain_streams()
        await super().shutdown(sockets)

    async def _drain_streams(self) -> None:
        """Give streams time to end, then stop them; requests have the rest of the drain timeout.

        uvicorn itself would close stream connections at once.
        """
        for server in self.servers:
            server.close()
        timeout = self._service.settings.drain_timeout
        began = time.monotonic()
        await self._service.streams.drain(timeout)
        left = timeout - (time.monotonic() - began)
        self.config.timeout_graceful_shutdown = max(1, round(left))


def serve(settings: Settings, worker: Worker | None = None) -> int:
    """Serve in this process until a signal; returns an exit code."""
    # I/O threads, the engine and the loader reuse the same large blocks of memory.
    share_freed_memory()
    logs.configure(settings.log_level, settings.log_format)
    try:
        app = create_app(settings)
    except SnacError as error:
        explain(error)
        return 2
    # Present objects are permanent: scanning them would stall every request at each reload.
    gc.freeze()
    service: Service = app.state.service
    server, sockets = Server(server_config(app, settings), service), None
    if worker is not None:
        service.worker = worker
        if worker.replacement:
            service.start()
            service.lifecycle.join()
            if service.lifecycle.failure is not None:
                explain(service.lifecycle.failure)
                return 1
        sockets = worker.listen(settings)
    # uvicorn handles signals only while it runs, and raises them again when it has stopped. An
    # early signal must not be lost, and a late one must not undo a clean exit.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    signal.signal(signal.SIGHUP, lambda number, frame: service.models.look_soon())
    server.run(sockets)
    if service.lifecycle.failure is not None:
        explain(service.lifecycle.failure)
        return 1
    return ENGINE_DEAD if service.engine.died else 0


def explain(error: Exception) -> None:
    """Write why the service cannot start to standard error, one line per wrong setting."""
    if not isinstance(error, ValidationError):
        sys.stderr.write(f"snac-service: {error}\n")
        return
    for item in error.errors():
        name = "_".join(map(str, item["loc"][:1])).upper()
        said = item["msg"].removeprefix("Value error, ")
        sys.stderr.write(f"snac-service: {f'SNAC_{name}: ' if name else ''}{said}\n")


def announced_url(settings: Settings, port: int) -> str:
    """Return the URL by which clients on this machine reach the service listening on ``port``."""
    host = "127.0.0.1" if settings.address in ("0.0.0.0", "::") else settings.address
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.published_port or port}"


def _announce(service: Service, port: int) -> None:
    codec, settings = service.models.codec, service.settings
    url = announced_url(settings, port)
    key = ' -H "X-Api-Key: $SNAC_API_KEY"' if settings.api_keyring else ""
    log.info(
        "serving",
        url=url,
        version=codec.version,
        token_space=codec.token_space,
        device=str(codec.device),
        precision=codec.precision,
        held_bytes=service.memory.max_bytes,
        encode=f"curl{key} --data-binary @{_some_speech()} {url}/v1/encode",
        decode=f"curl{key} --data '{{\"codes\":{_some_codes(codec.config)}}}' "
        f"--output tokens.wav {url}/v1/decode",
    )
    if not settings.on_loopback and not settings.api_keyring:
        log.warning("anybody who can reach this port may use it; SNAC_API_KEY sets a key")


def _some_speech() -> str:
    """Return the recording of a checkout, so that the example command can be pasted as it is."""
    sample = Path(__file__).parents[2] / "examples/voice.wav"
    return shlex.quote(str(sample)) if sample.exists() else "your_speech.wav"


def _some_codes(config: SnacConfig) -> str:
    """Return the shortest valid codes, so that the example command needs no file."""
    frames = config.pad_multiple // config.frame_samples
    return json.dumps([[0] * count * frames for count in config.codes_per_frame]).replace(" ", "")
