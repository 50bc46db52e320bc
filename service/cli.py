"""`snac-service`: serve a model over HTTP."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterable
from typing import Any

import structlog
from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource

import snac_core.utils.openmp  # noqa: F401 - before torch
from service import reference
from service.observability import logs
from service.server import supervisor
from service.server.server import explain, serve
from service.settings import PREFIX, Settings
from snac_core.errors import ConfigError
from snac_core.utils.commands import add_version

log = structlog.get_logger(__name__)

_OTHERS = ("SNAC_TRAINER_", "SNAC_TEST_")
"""Variables that belong to the trainer and to the tests."""


def main(arguments: list[str] | None = None) -> int:
    """Run the service until SIGTERM or SIGINT; returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="snac-service",
        description="Serve a SNAC model over HTTP. Every setting is also an environment variable: "
        "--max-seconds is SNAC_MAX_SECONDS. Options take precedence. Other users of this machine "
        "can read a command line, so keys belong into variables or files.",
    )
    add_version(parser)
    parser.add_argument(
        "--reference", choices=reference.PAGES, help="print this page of docs/ and exit"
    )
    options: CliSettingsSource[Any] = CliSettingsSource(
        Settings,
        root_parser=parser,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )
    given = parser.parse_args(arguments)
    if given.reference is not None:
        print(reference.PAGES[given.reference](), end="")
        return 0
    try:
        settings = CliApp.run(Settings, given, cli_settings_source=options)
        devices = supervisor.devices(settings)
    except (ValidationError, ConfigError) as error:
        explain(error)
        return 2
    unknown = _unknown_variables(os.environ)
    if unknown:
        logs.configure(settings.log_level, settings.log_format)
        for name, nearest in unknown.items():
            log.warning("no such setting", variable=name, did_you_mean=nearest)
    if len(devices) > 1:
        return supervisor.supervise(settings, devices)
    return serve(settings.model_copy(update={"device": devices[0]}))


def _unknown_variables(names: Iterable[str]) -> dict[str, str | None]:
    """Return the names that look like settings and are none, each with the nearest that is one."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    return {
        name: next(iter(difflib.get_close_matches(name, known, n=1)), None)
        for name in sorted(names)
        if name.startswith(PREFIX) and not name.startswith(_OTHERS) and name not in known
    }


if __name__ == "__main__":
    sys.exit(main())
