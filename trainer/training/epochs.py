"""What each epoch learns from: how many batches there are, and the next one on the device."""

from __future__ import annotations

import logging
from typing import Any

import torch

from snac_core.config import SnacConfig
from trainer.config import TrainConfig, curriculum
from trainer.data.segments import Segment, SegmentLoader
from trainer.data.sources import TrainingData
from trainer.errors import TrainerError
from trainer.runtime.distributed import World
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
        self._steps: dict[curriculum.EpochPlan, int] = {}
        steps = sum(self.steps(epoch) for epoch in range(1, config.num_epochs + 1))
        self.total_steps = min(config.max_steps or steps, steps)
        for length in sorted({plan.length for plan in self._steps}):
            if short := data.shorter(length):
                log.info("%d recordings are shorter than %g s and padded", short, length)

    def steps(self, epoch: int) -> int:
        """Return how many batches ``epoch``, counted from 1, has."""
        plan = curriculum.plan(self.config, epoch)
        if plan not in self._steps:
            self._steps[plan] = len(self.batches(epoch))
        return self._steps[plan]

    def batches(self, epoch: int) -> SegmentLoader:
        """Return the loader of an epoch: a new one each time, as stages differ in shape."""
        length, size = curriculum.plan(self.config, epoch)
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
        )

    def go_on(self, batches: SegmentLoader, reading: list[dict[str, Any]]) -> None:
        """Let an epoch's loader go on from what every process's loader once said of itself.

        Raises
        ------
        TrainerError
            When it reads shards, and the number of processes or workers was another.
        """
        if len(reading) == self.world.size:
            batches.load_state_dict(reading[self.world.rank])
        elif self.data.shards:
            raise TrainerError(
                f"within an epoch of shards, go on with {len(reading)} processes as before, not "
                f"{self.world.size}"
            )
        else:
            # Every process is as far in the one order that they share.
            batches.load_state_dict(reading[0])

    def to_device(self, loaded: Segment) -> tuple[Batch, int, float]:
        """Return this process's part of a batch.

        Returns
        -------
        The part, the readable segments in all processes' parts, and their seconds.
        """
        batch = self.transfer.take(loaded)
        mine = torch.tensor([len(loaded.audio), len(batch.audio), int(batch.own.sum())])
        table = torch.zeros(self.world.size, 3, dtype=torch.int64)
        table[self.world.rank] = mine
        table = self.world.sum(table)
        first = int(table[: self.world.rank, 0].sum())
        _, present, samples = table.sum(dim=0).tolist()
        seconds = samples / self.codec.sampling_rate
        return batch._replace(places=batch.places + first), present, seconds
