"""Finds a run's recordings once, in one process, for all processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.config import TrainConfig
from trainer.data.recording_index import RecordingIndex
from trainer.data.recordings import Clip
from trainer.data.sources import Found, TrainingData, find
from trainer.data.unreadable import Unreadable
from trainer.runtime.distributed import World


class RunData(NamedTuple):
    """The recordings of a run."""

    training: TrainingData
    validation: Sequence[Clip]
    """Those of ``val_data``."""
    named: dict[str, Sequence[Clip]]
    """Those of each of ``val_sets``."""


def find_data(config: TrainConfig, world: World, unreadable: Unreadable | None = None) -> RunData:
    """Return what to train on and the recordings to validate on; every process calls this.

    The first one looks for them. The others map what it found, which must be where all of them
    see it; no file is left of it.

    Raises
    ------
    TrainerError
        As `trainer.data.sources.find` and `TrainingData` do.
    """

    def look() -> Found:
        output = Path(config.output_dir)
        if world.size > 1:
            output.mkdir(parents=True, exist_ok=True)
        folder = Path(
            tempfile.mkdtemp(prefix=".recordings-", dir=output if world.size > 1 else None)
        )
        try:
            return find(config, folder)
        except BaseException:
            shutil.rmtree(folder)
            raise

    found = world.on_main(look)
    try:
        return RunData(
            TrainingData(config, unreadable, found),
            RecordingIndex(found.validation),
            {name: RecordingIndex(path) for name, path in found.named.items()},
        )
    finally:
        # All have mapped what the first one removes.
        world.gather(None)
        if world.main:
            shutil.rmtree(found.validation.parent)
