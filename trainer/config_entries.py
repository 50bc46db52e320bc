"""Entries of the lists that a training configuration may hold."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """One curriculum stage.

    Parameters
    ----------
    epochs
        First and last epoch, counted from 1; a single number means just that epoch.
    length
        Seconds in a training segment.
    batch_multiplier
        Times ``batch_size`` gives the stage's batch.
    """

    epochs: tuple[int, int]
    length: float
    batch_multiplier: float = 1.0


@dataclasses.dataclass(frozen=True)
class Source:
    """One of several places that training data comes from.

    Parameters
    ----------
    path
        Folder of audio or of shards, or a pattern of shards.
    weight
        How many times an epoch takes each of its recordings; a fraction takes some of them.
    """

    path: str
    weight: float = 1.0
