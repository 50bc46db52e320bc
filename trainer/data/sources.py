"""The training and validation recordings of a run, whatever form they are stored in."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from trainer.config import Source, TrainConfig
from trainer.data.augment import Augmentation
from trainer.data.recording_index import SCHEMA, RecordingIndex, pages, write
from trainer.data.sampling import Bucketed, Shuffled
from trainer.data.scan import found_in
from trainer.data.segments import SegmentLoader, TrainingSegments, loader
from trainer.data.shard_files import is_shards, scan_shards, shard_paths
from trainer.data.shards import Shard, ShardSegments, shards_of
from trainer.data.unreadable import Unreadable
from trainer.errors import TrainerError


class Found(NamedTuple):
    """What one process has found for all."""

    training: Path
    """A file of recordings to train on; see `RecordingIndex`. Empty where there are shards."""
    validation: Path
    """The same of those to validate on."""
    shards: list[Shard]
    """To train on."""
    named: dict[str, Path]
    """The same of those of ``val_sets``, by name."""


def recordings(place: str | Path, split: str = "val") -> Iterator[pa.Table]:
    """Yield the recordings in a folder, a manifest, or shards, some at a time.

    See `is_shards` and `found_in`.

    Raises
    ------
    TrainerError
        When there are none that can be read.
    """
    if is_shards(place):
        yield from pages(scan_shards(shard_paths(place)))
    else:
        yield from found_in(place, split)


def find(config: TrainConfig, folder: Path) -> Found:
    """Find what a run trains on and validates on, and write it to files in ``folder``.

    Raises
    ------
    TrainerError
        When a source holds nothing that can be read, some are folders and some shards, or
        shards are to be bucketed by length.
    """
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
    named = {name: folder / f"set-{name}.arrow" for name in config.val_sets}
    found = Found(folder / "training.arrow", folder / "validation.arrow", [], named)
    # First, as it is the smaller one.
    write(recordings(config.val_data), found.validation)
    for name, path in named.items():
        write(recordings(config.val_sets[name]), path)
    if all(sharded):
        for source in sources:
            found.shards.extend(shards_of(shard_paths(source.path), source.weight))
    write(() if all(sharded) else itertools.chain(*map(_weighed, sources)), found.training)
    return found


def _weighed(source: Source) -> Iterator[pa.Table]:
    place = SCHEMA.get_field_index("weight")
    for table in found_in(source.path):
        yield table.set_column(
            place, SCHEMA.field(place), pa.array(np.full(len(table), source.weight))
        )


class TrainingData:
    """What a run trains on: recordings in folders, or shards.

    Parameters
    ----------
    config
        Says what happens to segments, and names the sources.
    unreadable
        Keeps note of recordings that turn out to be damaged.
    found
        What `find` returned; None finds it.

    Attributes
    ----------
    recordings, seconds
        How many there are, and how long they are together, weights not counted.

    Raises
    ------
    TrainerError
        As `find` does.
    """

    def __init__(
        self,
        config: TrainConfig,
        unreadable: Unreadable | None = None,
        found: Found | None = None,
    ) -> None:
        self.config = config
        self.unreadable = Unreadable() if unreadable is None else unreadable
        if found is None:
            with tempfile.TemporaryDirectory() as folder:
                found = find(config, Path(folder))
                self.clips = RecordingIndex(found.training)
        else:
            self.clips = RecordingIndex(found.training)
        self.shards = found.shards
        self.recordings = len(self.clips) + sum(len(shard.seconds) for shard in self.shards)
        self.seconds = float(self.clips.seconds.sum()) + sum(
            float(shard.seconds.sum()) for shard in self.shards
        )

    def digest(self) -> str:
        """Return a digest of the recordings' names, lengths and weights."""
        digest = hashlib.blake2b(self.clips.digest().encode(), digest_size=16)
        for shard in self.shards:
            name = str(shard.path).rpartition("/")[2]
            digest.update(repr((name, shard.weight)).encode())
            digest.update(shard.seconds.tobytes())
        return digest.hexdigest()

    def shorter(self, seconds: float) -> int:
        """Return how many recordings are too short for a segment of ``seconds``."""
        return int((self.clips.seconds < seconds).sum()) + sum(
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
        done: int = 0,
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
        done
            Batches of the epoch that were there before. The loader has those that follow; from
            shards, others than would have followed.

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
                done=done,
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
        return loader(segments, batch, config.num_workers, order, done)
