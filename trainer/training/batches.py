"""Batches between loader and device: whole frames, without unreadable segments."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise
from trainer.data.segments import Segment
from trainer.runtime.distributed import World

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """A process's part of one batch, on its device."""

    audio: Tensor
    """Tensor[B x 1 x T], T whole frames of the codec."""
    own: Tensor
    """The same shape: 1 where it is recording, 0 where it is padding."""
    places: Tensor
    """Tensor[B] of int64: each segment's place in the batch of all processes."""

    def parts(self, count: int) -> list[Batch]:
        """Return the segments divided into ``count`` batches, in order."""
        return [Batch(*each) for each in zip(*(t.tensor_split(count) for t in self), strict=True)]

    def noise(self, seed: int, step: int = 0) -> Noise:
        """Return noise that depends on the numbers and each segment's place, and no process."""
        (word,) = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
        seeds = int(word >> np.uint64(2)) + self.places
        return Noise(seeds, torch.zeros_like(seeds))

    def context(self, config: SnacConfig, noise: Noise) -> BatchContext:
        """Return what keeps each segment apart from its padding, in whole frames."""
        multiple = config.pad_multiple
        samples = (self.own.sum(dim=(1, 2)).long() + multiple - 1) // multiple * multiple
        whole = bool(samples.min() == self.own.shape[-1])
        return BatchContext(self.audio.shape[-1], None if whole else samples, noise)


class DeviceTransfer:
    """Brings batches to the device and counts what could not be read.

    Parameters
    ----------
    world
        Whose device.
    config
        The codec's, for the length of its frames.

    Attributes
    ----------
    skipped
        Segments left out so far in this process.
    """

    def __init__(self, world: World, config: SnacConfig) -> None:
        self.world, self.config, self.skipped = world, config, 0

    def take(self, loaded: Segment, first: int = 0) -> Batch:
        """Return the readable segments of ``loaded``; its first has place ``first``."""
        places = torch.arange(first, first + len(loaded.audio))
        present = loaded.own.amax(dim=(1, 2)) > 0
        if missing := int((~present).sum()):
            self.skipped += missing
            log.warning("%d segments left out so far, as they cannot be read", self.skipped)
            loaded, places = Segment(*(part[present] for part in loaded)), places[present]
        length = loaded.audio.shape[-1]
        pad = self.config.padded_samples(length) - length
        audio, own, places = (
            tensor.to(self.world.device, non_blocking=True) for tensor in (*loaded, places)
        )
        return Batch(F.pad(audio, (0, pad)), F.pad(own, (0, pad)), places)
