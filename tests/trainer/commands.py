"""``snac-trainer`` in processes of its own, which can be watched, signalled and killed."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

import torch

from trainer.cli import main

LONGEST_WAIT = 390.0
"""Seconds after which a process that does not go on fails its test."""

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["trainer.cli", "torch._dynamo", "torch.utils.tensorboard"])


class Started(Protocol):
    """A process that trains."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def communicate(self) -> tuple[str, str | None]: ...


class Forked:
    """``snac-trainer ARGUMENTS`` on the CPU, one thread, where all is imported already.

    It is what ``python -m trainer`` is but for the seconds that the imports take.

    Parameters
    ----------
    arguments
        As on the command line.
    said
        A file that gets what it says.
    """

    def __init__(self, arguments: tuple[str, ...], said: Path) -> None:
        self._said = said
        self._process = FORKSERVER.Process(target=_run, args=(arguments, said))
        self._process.start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, or less than 0 for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return `returncode`."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as an out-of-memory killer does."""
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, None]:
        """Wait for its end and return what it said."""
        self._process.join(LONGEST_WAIT)
        if self._process.is_alive():
            self.kill()
            raise AssertionError(f"it did not end within {LONGEST_WAIT:g} s")
        return self._said.read_text(), None


def _run(arguments: tuple[str, ...], said: Path) -> None:
    with said.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    # With the allocator set, the command need not start over to set it.
    os.environ |= {"OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": ""}
    torch.set_num_threads(1)
    # As it would be in a process that was not forked; data loaders go by it.
    multiprocessing.set_start_method("fork", force=True)
    sys.argv = ["snac-trainer", *arguments]
    sys.exit(main())


def started(*arguments: str) -> subprocess.Popen[str]:
    """Start ``python -m trainer`` on the CPU, one thread each."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_rows(process: Started, output: Path, count: int) -> None:
    """Return once ``metrics.csv`` has so many rows; fail when the process ends before."""
    path = output / "metrics.csv"
    deadline = time.monotonic() + LONGEST_WAIT
    while not (path.exists() and path.read_text().count("\n") > count):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"no {count} rows within {LONGEST_WAIT:g} s"
        time.sleep(0.02)


def rows(output: Path) -> list[dict[str, str]]:
    """Return the rows of a run's ``metrics.csv``."""
    with (output / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def curve(output: Path) -> list[dict[str, str]]:
    """Return the rows of a run's ``metrics.csv`` without how long they took."""
    cost = ("audio_seconds_per_second", "wall_seconds")
    return [
        {name: value for name, value in row.items() if name not in cost} for row in rows(output)
    ]
