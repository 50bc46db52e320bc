"""What the command lines of the packages have in common."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from snac_core.errors import SnacError


class MissingExtraError(SnacError):
    """A command whose dependencies are not installed."""


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add ``--version``, which prints the command's name and the package's version."""

    class Version(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
            print(f"{parser.prog} {importlib.metadata.version('snac-tokenizer')}")
            parser.exit()

    # Looked up only where it is asked for.
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Add ``--strict``, which makes skipped and failed files an error."""
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit code 1 if any file was skipped or failed; all of them are named",
    )


@contextlib.contextmanager
def extra(name: str, command: str) -> Iterator[None]:
    """Import what belongs to the package's extra ``name`` within this context.

    Raises
    ------
    MissingExtraError
        Naming the extra, if a module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("snac_core", "service", "trainer", "bulk"):
            raise
        raise MissingExtraError(
            f"{command} needs {error.name}, which the extra '{name}' installs: "
            f"pip install 'snac-tokenizer[{name}]', or make setup in a checkout"
        ) from error


def progress(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return a tqdm bar that is shown on a terminal only; parameters as for ``tqdm``."""
    return tqdm(items, **{"disable": None, **options})


def complain(program: str, error: object, path: Path | None = None, kind: str = "error") -> None:
    """Print an error, or a warning, as one line on stderr.

    Parameters
    ----------
    path
        The file that it is about, unless its text names it already.
    """
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if path is not None and str(path) not in message:
        message = f"{path}: {message}"
    print(f"{program}: {kind}: {printable(' '.join(message.split()))}", file=sys.stderr)


def printable(text: str) -> str:
    """Return ``text`` with the bytes of file names that are not UTF-8 spelled out."""
    return text.encode(errors="backslashreplace").decode()


def skipped_files(paths: Iterable[Path], most: int | None = 10) -> list[str]:
    """Return a line for each suffix of files that were skipped for it, naming the files.

    Parameters
    ----------
    most
        Files to name of each suffix; None names all.
    """
    by_suffix: dict[str, list[Path]] = {}
    for path in paths:
        by_suffix.setdefault(path.suffix.lower(), []).append(path)
    lines = []
    for suffix, found in sorted(by_suffix.items()):
        named = ", ".join(map(str, found[:most]))
        left = len(found) - len(found[:most])
        lines.append(
            f"skipped {len(found)} file{'s' * (len(found) > 1)} whose suffix "
            f"{suffix or '(none)'} is not read: {named}{f' and {left} more' if left else ''}"
        )
    return lines
