"""Loader processes, and how they react to signals.

Whatever stops a job (``timeout``, systemd, Slurm, torchrun) signals all its processes. The training
process saves and then ends the others; if they ended by themselves, it could not reach the point
at which it saves.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

from trainer.errors import TrainerError

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
"""What the process that trains handles, and those that read must outlive."""


class ReaderDiedError(TrainerError):
    """A process that reads recordings was killed."""

    def __init__(self, which: str) -> None:
        super().__init__(
            f"a process that reads recordings was killed, perhaps for want of memory ({which})"
        )


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start processes within that `outlive_signals`; they are safe from their first moment on."""
    handler = signal.getsignal(signal.SIGCHLD)
    # A forked process inherits the mask.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # PyTorch's handler raises an error in the middle of anything when one of them dies, such
        # as a step of the optimizer. The loader finds it out by itself, where it waits for data.
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGCHLD, handler)


def outlive_signals(worker: int) -> None:
    """Ignore stop signals: only the training process ends this one. A ``worker_init_fn``."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    parent = multiprocessing.parent_process()
    trainer = -1 if parent is None else parent.pid

    def wait() -> None:
        while True:
            asked = signal.sigwaitinfo(SIGNALS)
            if asked.si_signo == signal.SIGTERM and asked.si_pid == trainer:
                os._exit(0)

    threading.Thread(target=wait, name="signals", daemon=True).start()


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turn a loader's error about a process that died into `ReaderDiedError`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise ReaderDiedError(str(error)) from error
