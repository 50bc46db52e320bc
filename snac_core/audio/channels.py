"""Which channel of a recording is read, and what is said when their average loses it."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from snac_core.errors import AudioError

Channel: TypeAlias = int | Literal["average", "loudest"]
"""The channels' average, one of them by its index from 0, or the one with the most energy."""

NEARLY_SILENT_DB = 20.0
"""By how much the average is below a channel where a warning says so."""

_AUDIBLE = 1e-6
"""Mean square of a channel (-60 dBFS) below which it counts as silent itself."""


class AudioWarning(UserWarning):
    """A recording that was read in a way that may not be what is wanted."""


def parse_channel(text: str) -> Channel:
    """Return the channel that ``text`` names: average, loudest, or an index.

    Raises
    ------
    AudioError
        For any other text.
    """
    if text == "average":
        return "average"
    if text == "loudest":
        return "loudest"
    if text.isascii() and text.isdigit() and len(text) < 4:
        return int(text)
    raise AudioError(f"channel must be average, loudest or an index from 0, not {text!r:.50}")


def check_channel(channel: Channel, channels: int) -> None:
    """Raise AudioError if ``channel`` is an index that a recording does not have."""
    if isinstance(channel, int) and not 0 <= channel < channels:
        raise AudioError(f"channel {channel} is not one of 0..{channels - 1}")


class Energy:
    """The sums of squares of each channel and of their average."""

    def __init__(self, channels: int) -> None:
        self._each = np.zeros(channels)
        self._average = 0.0
        self._frames = 0

    def add(self, block: npt.NDArray[np.float32], average: npt.NDArray[np.float32]) -> None:
        """Count a block of shape (samples, channels), and its average."""
        self._each += [float(np.dot(column, column)) for column in block.T]
        self._average += float(np.dot(average, average))
        self._frames += len(block)

    @property
    def loudest(self) -> int:
        """Index of the channel with the most energy."""
        return int(self._each.argmax())

    def warning(self) -> str | None:
        """Return a warning if the average is nearly silent and a channel is not, else None."""
        most = float(self._each.max())
        if most <= _AUDIBLE * self._frames or self._average * 10 ** (NEARLY_SILENT_DB / 10) > most:
            return None
        below = 10 * math.log10(most / self._average) if self._average else math.inf
        return (
            f"the average of the {len(self._each)} channels is {below:.0f} dB quieter than channel "
            f"{self.loudest}: they cancel each other; choose a channel, or loudest"
        )
