"""Pieces collected into batches."""

from __future__ import annotations

import numpy as np

from bulk.batches import Batch, Fault, Piece
from snac_core.inference.windows import Window
from snac_core.types import Samples


class Batcher:
    """Collects pieces until there is enough for a batch.

    Parameters
    ----------
    most_samples
        Audio after which a batch ends.
    """

    def __init__(self, most_samples: int) -> None:
        self._most = most_samples
        self._clear()

    def _clear(self) -> None:
        self._audio: list[Samples] = []
        self._pieces: list[Piece] = []
        self._lengths: dict[int, int] = {}
        self._faults: list[Fault] = []
        self._samples = 0

    @property
    def full(self) -> bool:
        """Whether it is time to `take` the batch."""
        return self._samples >= self._most

    def add(self, clip: int, audio: Samples, windows: tuple[Window, ...] | None = None) -> None:
        """Add a clip, or a run of windows of one."""
        self._audio.append(audio)
        self._pieces.append(Piece(clip, len(audio), windows))
        self._samples += len(audio)

    def end(self, clip: int, samples: int) -> None:
        """Say that a clip is over, and how long it was."""
        self._lengths[clip] = samples

    def fault(self, clip: int, reason: str, failed: bool = True) -> None:
        """Say that a clip gives no codes."""
        self._faults.append(Fault(clip, reason, failed))

    def take(self) -> Batch:
        """Return the pieces collected so far, and start a new batch."""
        audio = np.concatenate(self._audio) if self._audio else np.empty(0, np.float32)
        batch = Batch(audio, tuple(self._pieces), self._lengths, tuple(self._faults))
        self._clear()
        return batch
