"""A profiler trace of a few steps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

log = logging.getLogger(__name__)

FOLDER = "profile"
SKIPPED = 3
"""First steps, which start threads, choose algorithms and compile."""


class Profiler:
    """Records some steps of a run; Perfetto and chrome://tracing show the trace.

    Parameters
    ----------
    output
        The run's folder; the trace goes to ``profile/`` there.
    steps
        How many to record; 0 for none.
    """

    def __init__(self, output: Path, steps: int) -> None:
        self.folder = output / FOLDER
        self._left, self._profile = SKIPPED + steps if steps else 0, None
        if steps:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._profile = profile(
                activities=activities,
                schedule=schedule(wait=SKIPPED - 1, warmup=1, active=steps, repeat=1),
                on_trace_ready=self._write,
            )
            self._profile.start()

    def step(self) -> None:
        """Note the end of a step."""
        if self._profile is None:
            return
        self._profile.step()
        self._left -= 1
        if not self._left:
            self.close()

    def close(self) -> None:
        """Record no further step."""
        running, self._profile = self._profile, None
        if running is not None:
            running.stop()

    def _write(self, done: Any) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
            path = self.folder / f"trace-{done.step_num}.json.gz"
            done.export_chrome_trace(str(path))
        except OSError as error:
            log.error("the trace is not written: %s", error)
            return
        log.info("a trace of the last steps is in %s", path)
