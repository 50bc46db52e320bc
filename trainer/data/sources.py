"""The recordings that a run trains on and validates on, whatever they lie in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.config import Source, TrainConfig
from trainer.data.augment import Augmentation
from trainer.data.segments import (
    Bucketed,
    Clip,
    SegmentLoader,
    Shuffled,
    TrainingSegments,
    loader,
    scan,
)
from trainer.data.shard_files import is_shards, scan_shards, shard_paths
from trainer.data.shards import Shard, ShardSegments, shards_of
from trainer.data.unreadable import Unreadable
from trainer.errors import TrainerError


def recordings(place: str | Path) -> list[Clip]:
    """Return the recordings in a folder, or in shards, as a folder or pattern names them.

    Raises
    ------
    TrainerError
        When there are none that can be read.
    """
    return scan_shards(shard_paths(place)) if is_shards(place) else scan(place)


class TrainingData:
    """What a run trains on: folders of recordings, or shards.

    Parameters
    ----------
    config
        Names the sources and says what happens to segments.
    unreadable
        Keeps note of recordings that turn out to be damaged.

    Attributes
    ----------
    recordings, seconds
        How many there are, and how long they are together, weights not counted.

    Raises
    ------
    TrainerError
        When a source holds nothing that can be read, some are folders and some shards, or
        shards are to be bucketed by length.
    """

    def __init__(self, config: TrainConfig, unreadable: Unreadable | None = None) -> None:
        self.config = config
        self.unreadable = Unreadable() if unreadable is None else unreadable
        given = config.train_data
        sources = (Source(given),) if isinstance(given, str) else given
        sharded = [is_shards(source.path) for source in sources]
        if any(sharded) and not all(sharded):
            raise TrainerError(
                "train_data must be folders of recordings, or shards, not some of each: "
                + ", ".join(source.path for source in sources)
            )
        if any(sharded) and config.bucket_by_length:
            raise TrainerError(
                "bucket_by_length sorts recordings in folders; shards are read in their own order: "
                "set it to false, or give folders"
            )
        self.clips: list[Clip] = []
        self.shards: list[Shard] = []
        for source in sources:
            if all(sharded):
                self.shards += shards_of(shard_paths(source.path), source.weight)
            else:
                clips = scan(source.path)
                self.clips += [clip._replace(weight=source.weight) for clip in clips]
        self.recordings = len(self.clips) + sum(len(shard.seconds) for shard in self.shards)
        self.seconds = sum(clip.seconds for clip in self.clips) + sum(
            float(shard.seconds.sum()) for shard in self.shards
        )

    def shorter(self, seconds: float) -> int:
        """Return how many recordings are too short for a segment of ``seconds``."""
        return sum(clip.seconds < seconds for clip in self.clips) + sum(
            int((shard.seconds < seconds).sum()) for shard in self.shards
        )

    @property
    def augmentation(self) -> Augmentation:
        """What the configuration does to segments."""
        keys = [field.name for field in dataclasses.fields(Augmentation)]
        return Augmentation(**{key: getattr(self.config, key) for key in keys})

    def batches(
        self,
        epoch: int,
        samples: int,
        batch: int,
        sample_rate: int,
        *,
        rank: int = 0,
        world: int = 1,
        multiple: int = 1,
    ) -> SegmentLoader:
        """Return the loader of an epoch; it has as many batches on every rank.

        Parameters
        ----------
        epoch
            Counted from 1.
        samples, sample_rate
            Of a segment.
        batch
            Segments in a global batch, of which a rank reads its slice.
        rank, world
            Which of how many processes this is.
        multiple
            Samples of which a batch that ``bucket_by_length`` shortens is a multiple.

        Raises
        ------
        TrainerError
            When the segments or shards are too few for so many processes.
        """
        config = self.config
        seconds = samples / sample_rate
        if self.shards:
            if len(self.shards) < world * max(1, config.num_workers):
                raise TrainerError(
                    f"{len(self.shards)} shards cannot be dealt out to {world} processes with "
                    f"{max(1, config.num_workers)} readers each: lower num_workers to "
                    f"{len(self.shards) // world}, or make smaller shards"
                )
            shards = ShardSegments(
                self.shards,
                seconds,
                sample_rate,
                batch,
                epoch=epoch,
                seed=config.random_seed,
                rank=rank,
                world=world,
                buffer=config.shuffle_buffer,
                augmentation=self.augmentation,
                unreadable=self.unreadable,
            )
            return loader(shards, batch, config.num_workers)
        segments = TrainingSegments(
            self.clips,
            seconds,
            sample_rate,
            epoch=epoch,
            seed=config.random_seed,
            augmentation=self.augmentation,
            unreadable=self.unreadable,
        )
        if config.bucket_by_length:
            order: Shuffled = Bucketed(
                segments.own_samples,
                config.random_seed,
                epoch,
                rank,
                world,
                multiple=multiple,
                longest=samples,
            )
        else:
            order = Shuffled(len(segments), config.random_seed, epoch, rank, world)
        return loader(segments, batch, config.num_workers, order)
