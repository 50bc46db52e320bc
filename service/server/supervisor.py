"""One worker process per device, behind one port.

Each worker is a whole service with its own interpreter, model and engine. If a device fails, only
its worker ends, and is restarted. The kernel distributes connections over the workers, which
exchange metrics and reloads over sockets in a folder that only this user can access.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import structlog
import torch

from service.observability import logs
from service.runtime.lifecycle import REFUSED
from service.runtime.peers import Worker, only_service, served, shared_port
from service.settings import Settings
from snac_core.errors import ConfigError

log = structlog.get_logger(__name__)


_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_SETTLED_SECONDS = 60.0
"""A worker that ran this long is restarted after the first pause again."""
_LOOK_SECONDS = 0.5
"""Polling interval while a restart is due."""


def devices(settings: Settings) -> list[str | None]:
    """Return the device of each worker process; one by default.

    Raises
    ------
    ConfigError
        If ``SNAC_DEVICES`` names unavailable devices, or none.
    """
    text = (settings.devices or "").strip()
    if not text:
        return [settings.device]
    gpus = torch.cuda.device_count()
    if text != "all" and not text.isdecimal():
        named = [part.strip() for part in text.split(",") if part.strip()]
        if not named:
            raise ConfigError(f"SNAC_DEVICES={text}: it names no device")
        return [*named]
    count = gpus if text == "all" else int(text)
    if count == 0 or (gpus and count > gpus):
        raise ConfigError(f"SNAC_DEVICES={text}: this machine has {gpus} GPUs that can be seen")
    return [f"cuda:{index}" if gpus else "cpu" for index in range(count)]


def supervise(settings: Settings, where: Sequence[str | None]) -> int:
    """Run a worker on each device until a signal; returns an exit code.

    If a worker cannot start at first, all end; one that ends or gives no sign of life later is
    restarted.
    """
    logs.configure(settings.log_level, settings.log_format)
    with contextlib.ExitStack() as stack:
        try:
            reserved = stack.enter_context(shared_port(settings.host, settings.port))
            port = reserved.getsockname()[1]
            stack.enter_context(only_service(settings.host, port))
        except OSError as error:
            sys.stderr.write(
                f"snac-service: {settings.host}:{settings.port} cannot be listened on: "
                f"{error.strerror}\n"
            )
            return 1
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="snac-"))
        stack.enter_context(_threads_shared_out(where))
        supervisor = Supervisor(settings.model_copy(update={"port": port}), where, Path(folder))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, supervisor.stop)
        signal.signal(signal.SIGHUP, supervisor.hand_on)
        return supervisor.run()


class Supervisor:
    """Starts the workers, and restarts those that end."""

    def __init__(self, settings: Settings, where: Sequence[str | None], folder: Path) -> None:
        self._settings, self._where, self._folder = settings, where, folder
        self._processes: dict[int, BaseProcess] = {}
        self._begun: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._due: dict[int, float] = {}
        self._beats: dict[int, tuple[int, float]] = {}
        self._stopping = False

    def run(self) -> int:
        """Start all workers; return when all have ended."""
        for number in range(len(self._where)):
            self._start(number, replacement=False)
        code = 0
        while self._processes or (self._due and not self._stopping):
            # A signal ends the workers, and thereby this wait.
            sentinels = [process.sentinel for process in self._processes.values()]
            wait(sentinels, _LOOK_SECONDS)
            self._end_silent()
            for number, process in list(self._processes.items()):
                if process.is_alive():
                    continue
                process.join()
                del self._processes[number]
                ended = process.exitcode or 0
                if self._stopping:
                    # SIGTERM ends a worker that is still starting.
                    code = code or (0 if ended == -signal.SIGTERM else ended)
                elif ended in REFUSED and not self._has_started(number):
                    code = ended
                    self.stop(signal.SIGTERM, None)
                else:
                    self._replace_later(number, ended)
            for number, due in list(self._due.items()):
                if due <= time.monotonic() and not self._stopping:
                    del self._due[number]
                    self._start(number, replacement=True)
        return code

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Stop every worker gracefully."""
        self._stopping = True
        for process in self._processes.values():
            process.terminate()

    def hand_on(self, number: int, frame: FrameType | None) -> None:
        """Send every worker the signal that has come."""
        for process in self._processes.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def _end_silent(self) -> None:
        """End workers whose heartbeat has stopped; they are replaced like workers that exited.

        Only a change of the file's time counts, not its age by the file system's clock.
        """
        for number, process in self._processes.items():
            try:
                beat = served(self._folder, number).stat().st_mtime_ns
            except FileNotFoundError:
                continue
            now = time.monotonic()
            last, since = self._beats.get(number, (0, now))
            if beat != last:
                self._beats[number] = beat, now
            elif now - since > self._settings.heartbeat_timeout and not self._stopping:
                log.error("a worker is silent and is ended", worker=number, seconds=now - since)
                process.kill()
                self._beats[number] = beat, now

    def _has_started(self, number: int) -> bool:
        return number in self._pauses or served(self._folder, number).exists()

    def _replace_later(self, number: int, code: int) -> None:
        settled = time.monotonic() - self._begun[number] > _SETTLED_SECONDS
        pause = _FIRST_PAUSE if settled else self._pauses.get(number, _FIRST_PAUSE)
        log.error("a worker ended and is started again", worker=number, code=code, pause=pause)
        self._pauses[number] = min(2 * pause, _LONGEST_PAUSE)
        self._due[number] = time.monotonic() + pause

    def _start(self, number: int, replacement: bool) -> None:
        settings = self._settings.model_copy(update={"device": self._where[number]})
        self._beats.pop(number, None)
        served(self._folder, number).unlink(missing_ok=True)
        worker = Worker(number, len(self._where), self._folder, replacement)
        process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(settings, worker), name=f"snac-worker-{number}"
        )
        process.start()
        self._processes[number], self._begun[number] = process, time.monotonic()
        if self._stopping:
            # `stop` ran before this process was in the list.
            process.terminate()


def _work(settings: Settings, worker: Worker) -> None:
    """Run a worker: the entry point of its process."""
    from service.server.server import serve

    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    sys.exit(serve(settings, worker))


def _end_with(parent: BaseProcess) -> None:
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _threads_shared_out(where: Sequence[str | None]) -> Iterator[None]:
    """Divide the cores among workers on the CPU, unless ``OMP_NUM_THREADS`` is set."""
    if "cpu" in where and "OMP_NUM_THREADS" not in os.environ:
        share = max(1, len(os.sched_getaffinity(0)) // len(where))
        os.environ["OMP_NUM_THREADS"] = str(share)
        try:
            yield
        finally:
            del os.environ["OMP_NUM_THREADS"]
    else:
        yield
