"""The inputs and outputs of a command: files, folders, standard input and output."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from snac_core.audio import AudioWarning
from snac_core.errors import SnacError
from snac_core.utils.commands import complain, printable, progress, skipped_files

PROGRAM = "snac-codec"

STANDARD = Path("-")
"""Standard input, or standard output."""


class UsageError(SnacError):
    """A command line that cannot be meant."""


class Plan(NamedTuple):
    """What is read, and what each becomes."""

    pairs: list[tuple[Path, Path]]
    skipped: list[Path]
    """Files in input folders with other suffixes."""
    searched: bool
    """Whether an input is a folder."""


def plan(
    arguments: argparse.Namespace,
    inputs: Collection[str],
    outputs: Sequence[str],
    standard: str,
) -> Plan:
    """Return each input file with the output file it is to become.

    Into a folder, files keep their relative names and take the suffix of the output format.

    Parameters
    ----------
    arguments
        ``inputs``; ``output``, or None where the last of the inputs is it; ``format`` or None.
    inputs, outputs
        Suffixes that are searched for in folders, and suffixes of what is written.
    standard
        The output format of standard output.

    Raises
    ------
    UsageError
        For an output of no known format, or one file for many inputs.
    SnacError
        For inputs that are not there.
    """
    sources, output = _split(arguments, inputs, outputs)
    several = len(sources) > 1 or any(source.is_dir() for source in sources)
    into_file = output == STANDARD or (output.suffix.lower() in outputs and not output.is_dir())
    if into_file and several:
        raise SnacError(
            f"{output} must be a folder, as {sources[0]} is one"
            if len(sources) == 1
            else f"{output} must be a folder: there are {len(sources)} inputs"
        )
    chosen = arguments.format or (standard if output == STANDARD else None)
    if into_file and output != STANDARD and chosen and output.suffix.lower() != f".{chosen}":
        raise UsageError(f"--format {chosen} does not go with the name {output}")
    arguments.format = chosen or (output.suffix.lower() if into_file else outputs[0]).lstrip(".")
    suffix = f".{arguments.format}"

    pairs: list[tuple[Path, Path]] = []
    skipped: list[Path] = []
    for source in sources:
        if source == STANDARD or source.is_file():
            name = "stdin" if source == STANDARD else source.stem
            pairs.append((source, output if into_file else output / f"{name}{suffix}"))
            continue
        if not source.is_dir():
            raise SnacError(f"{source} does not exist")
        found, others = search(source, inputs, output)
        pairs += [(path, output / path.relative_to(source).with_suffix(suffix)) for path in found]
        skipped += others
    return Plan(pairs, skipped, several)


def search(
    folder: Path, suffixes: Collection[str], leave_out: Path | None = None
) -> tuple[list[Path], list[Path]]:
    """Return the files under ``folder`` that end in ``suffixes``, and the others.

    Raises
    ------
    SnacError
        If there are none.
    """
    paths = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
    if leave_out is not None and leave_out.resolve() != folder.resolve():
        # The results of an earlier run may lie inside the input.
        paths = [path for path in paths if leave_out.resolve() not in path.resolve().parents]
    found = [path for path in paths if path.suffix.lower() in suffixes]
    if not found:
        raise SnacError(f"{folder} holds no files ending in {', '.join(suffixes)}")
    return found, [path for path in paths if path.suffix.lower() not in suffixes]


def _split(
    arguments: argparse.Namespace, inputs: Collection[str], outputs: Sequence[str]
) -> tuple[list[Path], Path]:
    """Return the inputs and the output."""
    sources: list[Path] = list(arguments.inputs)
    output: Path | None = arguments.output
    if output is None and len(sources) > 1:
        output = sources.pop()
        if output.is_file() and output.suffix.lower() in inputs:
            # Of names like *.wav, the last would be lost.
            raise UsageError(f"{output} is there already: -o {output} would replace it")
    if output is None and sources == [STANDARD]:
        output = STANDARD
    if not sources or output is None:
        raise UsageError("an input and an output are needed: IN OUT, or IN... -o OUT")
    name = str(output)
    folder = output == STANDARD or output.is_dir() or name.endswith("/") or not output.suffix
    if not folder and output.suffix.lower() not in outputs:
        raise UsageError(f"the output {name!r} must be a folder, or end in {', '.join(outputs)}")
    return sources, output


def each(planned: Plan, work: Callable[[Path, Path], str], *, strict: bool = False) -> int:
    """Do ``work`` on every pair, report those that fail, and return the exit code.

    What ``work`` returns is printed: on stdout, unless the result itself went there.
    """
    sources: dict[Path, Path] = {}
    failed = 0
    bar = progress(planned.pairs, unit="file", disable=None if planned.searched else True)
    for source, target in bar:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", AudioWarning)
            try:
                if target != STANDARD and sources.setdefault(target, source) != source:
                    raise SnacError(f"{target} was already written, from {sources[target]}")
                said = work(source, target)
            except (SnacError, OSError) as error:
                failed += 1
                with bar.external_write_mode(file=sys.stderr):
                    complain(PROGRAM, error, source)
            else:
                stream = sys.stderr if target == STANDARD else sys.stdout
                with bar.external_write_mode(file=stream):
                    if said:
                        print(printable(said), file=stream)
        for note in notes:
            with bar.external_write_mode(file=sys.stderr):
                complain(PROGRAM, note.message, source, kind="warning")
    if failed and planned.searched:
        complain(PROGRAM, f"{failed} of {len(planned.pairs)} files failed")
    for line in skipped_files(planned.skipped, None if strict else 10):
        complain(PROGRAM, line, kind="error" if strict else "warning")
    return 1 if failed or (strict and planned.skipped) else 0


def content(path: Path) -> bytes:
    """Return the bytes of a file, or of standard input."""
    return sys.stdin.buffer.read() if path == STANDARD else path.read_bytes()


def write(path: Path, data: bytes) -> None:
    """Write a file, making its folder, or to standard output."""
    if path == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
