"""The progress of a run: the state in a checkpoint beside weights, and throughput."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass
class TrainState:
    """The position of a run.

    Parameters
    ----------
    step
        Steps taken.
    epoch, batch
        The epoch, counted from 1, and how many of its batches have been used.
    reading
        What each process's loader goes on from within the epoch.
    best, no_better
        The best so far in ``best_metric`` on the fixed set, negated where that is better when
        higher, and how many validations in a row were no better.
    validated_at
        The step of the last validation.
    ended_early
        Whether there is no use in another step.
    done
        Whether all has been done that follows the last step.
    baseline
        Loss of the untouched base on the fixed set; NaN before that is measured.
    base_space, base_codes
        Its token space, and its codes of the fixed set while the quantizer trains.
    known
        Figures by segment of the base and of published versions on the fixed sets.
    seconds
        What the run took until it was last saved, in all its processes' lives.
    """

    step: int = 0
    epoch: int = 1
    batch: int = 0
    reading: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: float = math.inf
    no_better: int = 0
    validated_at: int = -1
    ended_early: bool = False
    done: bool = False
    baseline: float = math.nan
    base_space: str = ""
    base_codes: list[Tensor] = dataclasses.field(default_factory=list)
    known: dict[str, dict[str, Tensor]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def check_patience(self, patience: int | None) -> None:
        """End the run after ``patience`` validations without improvement; None never ends it."""
        self.ended_early = patience is not None and self.no_better >= patience

    def state_dict(self) -> dict[str, Any]:
        """Return the state as a mapping."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for field in dataclasses.fields(self):
            # Checkpoints of earlier versions lack some.
            setattr(self, field.name, values.get(field.name, getattr(self, field.name)))
        # Checkpoints of earlier versions hold mean losses here, which cannot be paired.
        self.known = {name: found for name, found in self.known.items() if isinstance(found, dict)}


class Throughput:
    """How fast steps are taken, saving and validating left out."""

    def __init__(self) -> None:
        self._audio_seconds = self._taken = 0.0
        self._steps, self._all = 0, 0.0

    def add(self, audio_seconds: float, taken: float) -> None:
        """Count one step: seconds of audio, and seconds that it took."""
        self._audio_seconds += audio_seconds
        self._taken += taken
        self._steps += 1
        self._all += taken

    def read(self) -> float:
        """Return audio-seconds per second since this was last called."""
        speed = self._audio_seconds / max(self._taken, 1e-9)
        self._audio_seconds = self._taken = 0.0
        return speed

    def left(self, steps: int) -> float:
        """Estimate the seconds that more steps will take, from those so far."""
        return self._all / max(1, self._steps) * steps


def spent(began: float, device: torch.device) -> dict[str, float]:
    """Return the seconds since ``began``, on `time.monotonic`, and the most GPU memory so far."""
    found = {"wall_seconds": time.monotonic() - began}
    if device.type == "cuda":
        found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found
