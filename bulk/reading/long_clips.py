"""A long clip cut into runs of windows while it is still being decoded.

The windows are those that `snac_core.inference.windows.plan` gives for the whole clip, so that its
codes are, too. Only the audio of one run is in memory.
"""

from __future__ import annotations

import numpy as np

from snac_core.config import SnacConfig
from snac_core.inference.windows import Window, context_samples, plan
from snac_core.types import Samples

WINDOWS = 8
"""Windows in one run: about a minute of audio."""


class LongClip:
    """The audio of a clip as it arrives, from which whole runs of windows are taken.

    Parameters
    ----------
    config
        Shape of the model.
    core_samples
        Samples to keep of each window, as `plan` takes them.
    """

    def __init__(self, config: SnacConfig, core_samples: int) -> None:
        self._config, self._core_samples = config, core_samples
        self._core = config.padded_samples(core_samples)
        self._context = context_samples(config)
        self._held: list[Samples] = []
        self._first = 0
        self._windows = 0
        self.samples = 0

    def add(self, block: Samples) -> None:
        """Append audio."""
        self._held.append(block)
        self.samples += len(block)

    @property
    def ready(self) -> bool:
        """Whether the next run can be taken, whatever follows."""
        return self.samples >= (self._windows + WINDOWS) * self._core + self._context

    def take(self) -> tuple[Samples, tuple[Window, ...]]:
        """Return the next run: its audio, and its windows counted from its first sample."""
        windows = []
        for number in range(self._windows, self._windows + WINDOWS):
            core = number * self._core
            start, stop = max(0, core - self._context), core + self._core + self._context
            windows.append(Window(start, stop, core, core + self._core))
        return self._run(windows)

    def rest(self) -> tuple[Samples, tuple[Window, ...]]:
        """Return the last run, which ends where the clip does."""
        return self._run(plan(self._config, self.samples, self._core_samples)[self._windows :])

    def _run(self, windows: list[Window]) -> tuple[Samples, tuple[Window, ...]]:
        audio = np.concatenate(self._held)
        start, self._windows = windows[0].start, self._windows + len(windows)
        run = audio[start - self._first : windows[-1].stop - self._first]
        # The next run's context reaches back into what this one had.
        first = max(0, self._windows * self._core - self._context)
        self._held, self._first = [audio[first - self._first :]], first
        return run, tuple(Window(*(bound - start for bound in window)) for window in windows)
