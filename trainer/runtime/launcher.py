"""Launches the processes of a distributed run on this machine, and forwards signals to them.

The agent that starts and watches them is torchrun's. It knows nothing of a second signal nor of
SIGUSR1, so that signals are handled here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from trainer.errors import TrainerError
from trainer.runtime.stopping import SignalCount

FOLDER = "SNAC_TRAINER_LAUNCHER"
"""Environment variable: where processes tell their launcher who they are, and that they ended."""

ENDED = "ended"

SAVING_SECONDS = 120
"""How long processes that were asked to stop may take to save."""


def launch(arguments: Sequence[str], processes: int, restarts: int) -> None:
    """Run ``python -m trainer ARGUMENTS`` in several processes and wait until they end.

    A signal that ends this process is passed on to them, and they save; a second one ends them
    at once. SIGUSR1 has them save and go on.

    Raises
    ------
    TrainerError
        When one of them fails more than ``restarts`` times, or they do not end in time.
    """
    options = torchrun.parse_args(  # type: ignore[no-untyped-call]
        [
            "--standalone",
            f"--nproc-per-node={processes}",
            f"--max-restarts={restarts}",
            f"--shutdown-timeout={SAVING_SECONDS}",
            # The others are handled here.
            "--signals-to-handle=SIGHUP,SIGQUIT",
            *("-m", "trainer"),
            *arguments,
        ]
    )
    with tempfile.TemporaryDirectory(prefix="snac-trainer-") as name:
        os.environ[FOLDER] = name
        try:
            with _passing_on(Path(name)):
                torchrun.run(options)  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            raise TrainerError(
                f"training process {failure.local_rank} of {processes} failed "
                f"(exit code {failure.exitcode}); what it said is above"
            ) from error
        except SignalException as error:
            if not (Path(name) / ENDED).exists():
                raise TrainerError(
                    f"stopped by signal {int(error.sigval)} before all processes had saved"
                ) from error


@contextlib.contextmanager
def _passing_on(folder: Path) -> Iterator[None]:
    """Handle signals for the processes that have told ``folder`` who they are."""
    signals, asked = SignalCount(), False

    def save(number: int, frame: FrameType | None) -> None:
        _send(folder, number)

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if signals.add() > 1:
            _send(folder, signal.SIGKILL)
            raise KeyboardInterrupt
        if not asked:
            asked = True
            # The agent asks its processes to end and waits for them when this is raised in it.
            raise SignalException(f"stopped by signal {number}", signal.Signals(number))

    before = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGUSR1, save),
            (signal.SIGTERM, stop),
            (signal.SIGINT, stop),
        )
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(folder: Path, number: int) -> None:
    for path in folder.glob("rank*"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), number)


@contextlib.contextmanager
def known_to_launcher(rank: int) -> Iterator[None]:
    """Let `launch`, if that started this process, know it within, and that it ended well."""
    if FOLDER not in os.environ:
        yield
        return
    folder = Path(os.environ[FOLDER])
    (folder / f"rank{rank}").write_text(str(os.getpid()))
    yield
    if not rank:
        (folder / ENDED).touch()
