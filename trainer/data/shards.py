"""Training segments from WebDataset shards, read sequentially: for millions of recordings.

Shards are dealt out to the workers of all ranks, in an order that the seed and the epoch
decide. A worker cuts crops from its shards as they come, collects a block of them, and gives
the block out in a random order while it collects the next.

What is guaranteed: with the same number of ranks and workers, the same seed and epoch give
the same batches; a loader that loads a state gives exactly the batches that were to follow,
having read again the block in which it stopped; every rank has the same number of steps. An
epoch has as many segments as the shards hold. A worker whose shards hold fewer than its
share starts over with them, one whose shards hold more does not see all of them. What a crop
is does not depend on who reads it, but in which batch it comes does; `trainer.data.segments` with
folders gives the same batches on any number of ranks.
"""

from __future__ import annotations

import tarfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch.utils.data import IterableDataset, default_collate, get_worker_info
from webdataset.tariterators import tar_file_iterator

from snac_core.errors import AudioError
from trainer.data import parquet_files
from trainer.data.augment import Augmentation
from trainer.data.crops import draw_crop
from trainer.data.places import open_file
from trainer.data.recordings import Clip, clip_of, is_audio
from trainer.data.segments import Segment, segment_of, segments_in
from trainer.data.shard_files import lengths_in
from trainer.data.unreadable import Unreadable
from trainer.errors import TrainerError


class Shard:
    """A shard to train on."""

    def __init__(self, path: str | Path, weight: float, seconds: npt.NDArray[np.float64]) -> None:
        self.path, self.weight, self.seconds = path, weight, seconds

    def segments(self, length: float) -> float:
        """Return how many segments of ``length`` seconds an epoch is expected to take from it."""
        return float(self.weight * np.maximum(1, self.seconds // length).sum())


def shards_of(paths: Sequence[str | Path], weight: float = 1.0) -> list[Shard]:
    """Return shards that hold recordings; see `trainer.data.shard_files.lengths_in`."""
    return [
        Shard(path, weight, seconds) for path, seconds in lengths_in(paths).items() if len(seconds)
    ]


class ShardSegments(IterableDataset[Segment]):
    """Batches of random crops from shards; its module says what is guaranteed.

    Parameters
    ----------
    shards
        At least as many as there are workers on all ranks.
    seconds
        Length of a segment; shorter recordings are padded and masked.
    sample_rate
        Hz.
    batch
        Segments in a global batch, of which this rank makes its share.
    epoch, seed
        Decide order, crops, and what happens to them.
    rank, world
        Which of how many processes this is.
    buffer
        Segments that a worker mixes at a time.
    done
        Batches that others have made of this epoch; each worker begins as far into its shards.
    augmentation
        What happens to segments.
    unreadable
        Keeps note of recordings that turn out to be damaged.

    Raises
    ------
    TrainerError
        When a batch has fewer segments than there are ranks, or for an augmentation that
        the sample rate does not allow.
    """

    def __init__(
        self,
        shards: list[Shard],
        seconds: float,
        sample_rate: int,
        batch: int,
        *,
        epoch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        buffer: int = 512,
        done: int = 0,
        augmentation: Augmentation | None = None,
        unreadable: Unreadable | None = None,
    ) -> None:
        self.shards, self.seconds, self.sample_rate = shards, seconds, sample_rate
        self.epoch, self.seed, self.rank, self.world = epoch, seed, rank, world
        self.buffer, self.done = buffer, done
        self.augmentation = augmentation or Augmentation()
        self.augmentation.check(sample_rate)
        self.unreadable = Unreadable() if unreadable is None else unreadable
        total = int(sum(shard.segments(seconds) for shard in shards))
        size = max(1, min(batch, total))
        if size < world:
            raise TrainerError(
                f"a batch of {size} segments cannot be shared by {world} processes: each needs one"
            )
        self.steps = max(1, total // size)
        self.size, self.first = size, size * rank // world
        self.share = size * (rank + 1) // world - self.first

    @property
    def draw(self) -> tuple[int, int, int]:
        """What the loader's workers are seeded by."""
        return self.seed, self.epoch, self.rank

    def __len__(self) -> int:
        return max(0, self.steps - self.done)

    def __iter__(self) -> Iterator[Segment]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return ShardReader(self, number, workers)

    def own_shards(self, worker: int, workers: int) -> list[int]:
        """Return the numbers of the shards that a worker of this rank reads, in its order.

        Raises
        ------
        TrainerError
            When there are fewer shards than workers on all ranks.
        """
        if len(self.shards) < self.world * workers:
            raise TrainerError(
                f"{len(self.shards)} shards cannot be dealt out to {self.world} processes with "
                f"{workers} readers each: lower num_workers, or make smaller shards"
            )
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.shards))
        mine: list[int] = order[self.rank * workers + worker :: self.world * workers].tolist()
        return mine

    def crops(
        self, number: int, lap: int, member: int, clip: Clip, data: bytes
    ) -> Iterator[Segment]:
        """Yield the segments of one recording, which is ``member`` of shard ``number``.

        Raises
        ------
        AudioError
            When it cannot be read.
        """
        whole, part = divmod(self.shards[number].weight, 1.0)
        draw = (self.seed, self.epoch, lap, number, member)
        copies = int(whole) + bool(np.random.default_rng(draw).random() < part)
        for crop in range(copies * segments_in(clip.seconds, self.seconds)):
            random = np.random.default_rng((*draw, crop))
            speed = self.augmentation.speed(*draw, crop)
            length = round(self.seconds * self.sample_rate)
            samples = draw_crop(
                clip,
                self.seconds,
                length,
                self.sample_rate,
                random,
                speed=speed,
                min_db=self.augmentation.min_crop_db,
                held=data,
            )
            samples = self.augmentation(samples, self.sample_rate, random)
            yield segment_of(samples, length)


class ShardReader(Iterator[Segment]):
    """One worker's batches; what its state is, is in ``state_dict``."""

    def __init__(self, data: ShardSegments, worker: int, workers: int) -> None:
        self.data = data
        self.order = data.own_shards(worker, workers)
        self.slot = data.rank * workers + worker
        self.total = len(range(worker, len(data), workers))
        self._damaged: set[tuple[int, int]] = set()
        self._hope = True
        start = len(self.order) * data.done // data.steps
        self._begin({"batches": 0, "block": 0, "given": 0, "place": [0, start, 0, 0]})

    def state_dict(self) -> dict[str, Any]:
        """Return batches made, the block's number, what was given of it, and where it began.

        The place is which lap over the shards, which shard, which recording in it and which
        of its segments.
        """
        return {
            "batches": self.batches,
            "block": self.block,
            "given": self.given,
            "place": list(self.place),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._begin(state_dict)

    def __next__(self) -> Segment:
        if self.batches == self.total:
            raise StopIteration
        batch = [self._segment() for _ in range(self.data.share)]
        self.batches += 1
        collated: Segment = default_collate(batch)
        return collated

    def _begin(self, state: dict[str, Any]) -> None:
        self.batches, self.block, self.given = state["batches"], state["block"], state["given"]
        self.place: tuple[int, ...] = tuple(state["place"])
        self._stream = self._segments(*self.place)
        self._block: list[Segment | None] = []
        self._next: list[tuple[tuple[int, ...], Segment]] = []

    def _segment(self) -> Segment:
        """Return the block's next segment, and read one for the block after it."""
        size = self.data.buffer
        if not self._block:
            self._block = [next(self._stream)[1] for _ in range(size)]
        while len(self._next) < self.given:
            self._next.append(next(self._stream))
        if self.given == size:
            self.block, self.given, self.place = self.block + 1, 0, self._next[0][0]
            self._block = [segment for _, segment in self._next]
            self._next = []
        draw = (self.data.seed, self.data.epoch, self.slot, self.block)
        pick = int(np.random.default_rng(draw).permutation(size)[self.given])
        segment = self._block[pick]
        assert segment is not None, pick
        self._block[pick] = None
        self.given += 1
        return segment

    def _segments(
        self, lap: int, shard: int, member: int, crop: int
    ) -> Iterator[tuple[tuple[int, ...], Segment]]:
        """Yield segments from a place on, without end, each with its place."""
        while True:
            for position in range(shard, len(self.order)):
                yield from self._shard(lap, position, member, crop)
                member, crop = 0, 0
            if not self._hope:
                names = [str(self.data.shards[number].path) for number in self.order]
                raise TrainerError(f"no recording can be read in {', '.join(names)}")
            lap, shard, self._hope = lap + 1, 0, False

    def _shard(
        self, lap: int, position: int, first: int, first_crop: int
    ) -> Iterator[tuple[tuple[int, ...], Segment]]:
        number = self.order[position]
        path = self.data.shards[number].path
        try:
            with closing(_recordings(path)) as recordings:
                for member, (name, data) in enumerate(recordings):
                    if member < first:
                        continue
                    skip = first_crop if member == first else 0
                    try:
                        clip = clip_of(Path(path), held=data)
                        crops = self.data.crops(number, lap, member, clip, data)
                        for crop, segment in enumerate(crops):
                            self._hope = True
                            if crop >= skip:
                                yield (lap, position, member, crop), segment
                        # A weight below 1 may draw none in a lap of what can be read well.
                        self._hope |= (number, member) not in self._damaged
                    except AudioError as error:
                        self._damaged.add((number, member))
                        self.data.unreadable.add(name, str(error))
        except (tarfile.TarError, pa.ArrowException, OSError, EOFError) as error:
            self.data.unreadable.add(str(path), f"the shard is damaged: {error}")


def _recordings(path: str | Path) -> Generator[tuple[str, bytes]]:
    """Yield what to call each recording of a shard, and its contents, from front to back."""
    if str(path).endswith(".parquet"):
        for row, (name, data) in enumerate(parquet_files.recordings(path)):
            yield f"{path}#{row} {name}", data
        return
    with open_file(path) as file:
        for recording in tar_file_iterator(file, select_files=is_audio):
            yield f"{path}#{recording['fname']}", recording["data"]
