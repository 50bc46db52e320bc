"""``snac-codec``: audio to codes and back, and what models are, on the command line.

Exit codes: 0 when all went well, 1 when the model or some input did not, 2 for wrong usage,
130 when interrupted. Results go to stdout; errors, one line each, and progress to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import snac_core.utils.openmp  # noqa: F401 - before torch
from snac_core.cli.files import PROGRAM, UsageError
from snac_core.cli.parser import parser
from snac_core.errors import SnacError
from snac_core.utils.commands import complain

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``snac-codec`` and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        # Not before: torch takes seconds to import.
        from snac_core.cli import commands

        return int(getattr(commands, arguments.command)(arguments))
    except UsageError as error:
        arguments.parser.print_usage(sys.stderr)
        complain(arguments.parser.prog, error)
        return 2
    except (SnacError, OSError) as error:
        complain(PROGRAM, error)
        return 1
    except KeyboardInterrupt:
        return 130
