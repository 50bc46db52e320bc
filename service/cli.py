"""`snac-service`: serve a model over HTTP."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
from types import FrameType
from typing import Any

import structlog
import uvicorn
from pydantic import ValidationError

from service import logs
from service.app import create_app
from service.runtime import Service
from service.settings import Settings
from snac_core.config import SnacConfig
from snac_core.errors import SnacError

log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """A server that says what it serves, and turns not ready before it stops listening."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then log the model and a command that works."""
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            _announce(self._service, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Fail the readiness probe for a moment, then stop listening and drain."""
        self._service.stopping = True
        log.info("stopping", drain_delay=self._service.settings.drain_delay)
        await asyncio.sleep(self._service.settings.drain_delay)
        await super().shutdown(sockets)


def main(arguments: list[str] | None = None) -> int:
    """Run the service until SIGTERM or SIGINT; returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="snac-service",
        description="Serve a SNAC model over HTTP. Every setting is also an environment "
        "variable SNAC_*; options go before them.",
    )
    parser.add_argument("--host", help="address to listen on (SNAC_HOST, 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (SNAC_PORT, 8000)")
    parser.add_argument("--model", help="model to serve (SNAC_MODEL, starter)")
    given: dict[str, Any] = {
        name: value
        for name, value in vars(parser.parse_args(arguments)).items()
        if value is not None
    }
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for item in error.errors():
            name = "_".join(map(str, item["loc"])).upper()
            print(f"snac-service: SNAC_{name}: {item['msg']}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format)
    app = create_app(settings)
    service: Service = app.state.service
    try:
        service.start()
    except SnacError as error:
        print(f"snac-service: {error}", file=sys.stderr)
        service.close()
        return 1
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_timeout,
        ws="none",
    )
    # The server raises the signal again once it has stopped; that must not undo a clean exit.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_quietly)
    Server(config, service).run()
    return 0


def _stop_quietly(number: int, frame: FrameType | None) -> None:
    pass


def _announce(service: Service, port: int) -> None:
    codec, settings = service.models.codec, service.settings
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{port}"
    key = "" if settings.api_key is None else ' -H "X-Api-Key: $SNAC_API_KEY"'
    log.info(
        "serving",
        url=url,
        version=codec.version,
        token_space=codec.token_space,
        device=str(codec.device),
        precision=codec.precision,
        encode=f"curl{key} --data-binary @your_speech.wav {url}/v1/encode",
        decode=f"curl{key} --data '{{\"codes\":{_some_codes(codec.config)}}}' "
        f"--output tokens.wav {url}/v1/decode",
    )
    if not settings.on_loopback and settings.api_key is None:
        log.warning("anybody who can reach this port may use it; SNAC_API_KEY sets a key")


def _some_codes(config: SnacConfig) -> str:
    """Return the least codes that can be decoded, so that a line to try needs no file."""
    frames = config.pad_multiple // config.frame_samples
    return json.dumps([[0] * count * frames for count in config.codes_per_frame]).replace(" ", "")


if __name__ == "__main__":
    sys.exit(main())
