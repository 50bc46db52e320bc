"""`snac-service`: serve a model over HTTP."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import structlog
from pydantic import ValidationError

import snac_core.utils.openmp  # noqa: F401 - before torch
from service import reference
from service.server import supervisor
from service.server.server import explain, serve
from service.settings import Settings
from snac_core.errors import ConfigError

log = structlog.get_logger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the service until SIGTERM or SIGINT; returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="snac-service",
        description="Serve a SNAC model over HTTP. Every setting is also an environment "
        "variable SNAC_*; options take precedence.",
    )
    parser.add_argument("--host", help="address to listen on (SNAC_HOST, 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (SNAC_PORT, 8000)")
    parser.add_argument("--model", help="model to serve (SNAC_MODEL, starter)")
    parser.add_argument("--devices", help="run one process on each of these devices (SNAC_DEVICES)")
    parser.add_argument(
        "--reference", choices=reference.PAGES, help="print this page of docs/ and exit"
    )
    given: dict[str, Any] = {
        name: value
        for name, value in vars(parser.parse_args(arguments)).items()
        if value is not None
    }
    page = given.pop("reference", None)
    if page is not None:
        print(reference.PAGES[page](), end="")
        return 0
    try:
        settings = Settings(**given)
        devices = supervisor.devices(settings)
    except (ValidationError, ConfigError) as error:
        explain(error)
        return 2
    if len(devices) > 1:
        return supervisor.supervise(settings, devices)
    return serve(settings.model_copy(update={"device": devices[0]}))


if __name__ == "__main__":
    sys.exit(main())
