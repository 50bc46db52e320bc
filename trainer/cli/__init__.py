"""``snac-trainer prepare | train | evaluate | tokens-report | publish``.

Exit codes: 0 when all went well, 1 when it did not, 2 for wrong usage, 130 when interrupted;
0 for a training run that was asked to stop, as it has saved what it needs to go on.
Errors are one line each.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence

from tqdm.contrib.logging import logging_redirect_tqdm

import snac_core.utils.openmp  # noqa: F401 - before torch
from snac_core.errors import SnacError
from snac_core.utils.commands import complain, extra
from snac_core.utils.malloc import restart_keeping_freed_memory
from trainer.cli.parser import parser

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if arguments is None:
        restart_keeping_freed_memory()
        # What stops a container ends a run as Ctrl-C does: with a checkpoint.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # Before there is anything to save.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        # Not before: --help needs neither the extra nor the seconds that torch takes.
        with extra("train", f"snac-trainer {options.command}"):
            from trainer.cli import commands

            with logging_redirect_tqdm():
                commands.run(options)
    except (SnacError, OSError) as error:
        complain("snac-trainer", error)
        return 1
    except KeyboardInterrupt:
        print("snac-trainer: interrupted", file=sys.stderr)
        return 130
    return 0
