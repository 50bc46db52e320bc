"""The batches of each epoch."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch

from snac_core.config import SnacConfig
from trainer.config import TrainConfig, curriculum
from trainer.data import loader_processes
from trainer.data.segments import Segment, SegmentLoader
from trainer.data.sources import TrainingData
from trainer.runtime.distributed import World
from trainer.runtime.progress import TrainState
from trainer.training.batches import Batch, DeviceTransfer

log = logging.getLogger(__name__)


class Epochs:
    """The batches of a run, of which each process has its part.

    Parameters
    ----------
    config
        Says what an epoch trains with.
    data
        Where it is from.
    codec
        Of the model, for its sample rate and frames.
    world
        The processes that divide the batches.
    transfer
        Takes them to the device.

    Attributes
    ----------
    all
        The epochs.
    total_steps
        In all epochs, or ``max_steps`` if that is less.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: TrainingData,
        codec: SnacConfig,
        world: World,
        transfer: DeviceTransfer,
    ) -> None:
        self.config, self.data, self.codec = config, data, codec
        self.world, self.transfer = world, transfer
        steps_of = functools.cache(lambda plan: len(self._loader(1, plan)))
        self.all = curriculum.epochs(config, steps_of)
        steps = sum(epoch.steps for epoch in self.all)
        self.total_steps = min(config.max_steps or steps, steps)
        for length in sorted({plan.length for plan in curriculum.plans(config)}):
            if short := data.shorter(length):
                log.info("%d recordings are shorter than %g s and padded", short, length)

    def __getitem__(self, epoch: int) -> curriculum.Epoch:
        """Return ``epoch``, counted from 1; past the last one, that."""
        return self.all[min(epoch, len(self.all)) - 1]

    def rescale(self, state: TrainState, batch_size: int) -> None:
        """Convert the position of a run with another ``batch_size`` to the present batches."""
        state.reading = []
        if not curriculum.by_steps(self.config):
            state.batch = state.batch * batch_size // self.config.batch_size
            return
        state.epoch, state.batch = 1, state.step
        for epoch in self.all:
            if state.batch < epoch.steps:
                return
            state.epoch, state.batch = state.epoch + 1, state.batch - epoch.steps

    def batches(self, epoch: int, done: int = 0) -> SegmentLoader:
        """Return the loader of an epoch, less its first ``done`` batches.

        It is a new one each time, as stages differ in shape.
        """
        return self._loader(epoch, self[epoch].plan, done)

    def _loader(self, epoch: int, plan: curriculum.EpochPlan, done: int = 0) -> SegmentLoader:
        length, size = plan
        rate = self.codec.sampling_rate
        return self.data.batches(
            epoch,
            # Whole frames, so that nothing of a segment is padding.
            self.codec.padded_samples(round(length * rate)),
            size,
            rate,
            rank=self.world.rank,
            world=self.world.size,
            multiple=self.codec.pad_multiple,
            done=done,
        )

    def rest(self, epoch: int, done: int, reading: list[dict[str, Any]]) -> SegmentLoader:
        """Return the loader of what is left of an epoch.

        Parameters
        ----------
        epoch
            Counted from 1.
        done
            How many of its batches there were.
        reading
            What each process's loader said of itself then.
        """
        if not (done and self.data.shards):
            return self.batches(epoch, done)
        readers = [one.get("workers") for one in reading]
        if readers == [self.config.num_workers] * self.world.size:
            batches = self.batches(epoch)
            batches.load_state_dict(reading[self.world.rank])
            return batches
        log.warning(
            "shards are dealt out otherwise than before, to num_workers %s in %d processes: what "
            "is left of this epoch has some recordings again and others not at all",
            *(self.config.num_workers, self.world.size),
        )
        return self.batches(epoch, done)

    def next(self, batches: Iterator[Segment]) -> tuple[Batch, int, float]:
        """Return this process's part of the next batch.

        Returns
        -------
        The part, the readable segments in all processes' parts, and their seconds.

        Raises
        ------
        ReaderDiedError
            When a process that reads for any of the processes that train is no more.
        """
        try:
            with loader_processes.reading():
                loaded, lost = next(batches), None
        except loader_processes.ReaderDiedError as error:
            loaded, lost = Segment(torch.zeros(0, 1, 1), torch.zeros(0, 1, 1)), error
        batch = self.transfer.take(loaded)
        mine = torch.tensor(
            [len(loaded.audio), len(batch.audio), int(batch.own.sum()), lost is not None]
        )
        table = torch.zeros(self.world.size, 4, dtype=torch.int64)
        table[self.world.rank] = mine
        table = self.world.sum(table)
        if table[:, 3].any():
            raise lost or loader_processes.ReaderDiedError("of another process")
        first = int(table[: self.world.rank, 0].sum())
        _, present, samples, _ = table.sum(dim=0).tolist()
        seconds = samples / self.codec.sampling_rate
        return batch._replace(places=batch.places + first), present, seconds
