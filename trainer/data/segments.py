"""Training segments (random crops) and validation segments (fixed crops)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from snac_core.errors import AudioError
from snac_core.types import Samples
from trainer.data import loader_processes
from trainer.data.augment import Augmentation
from trainer.data.crops import draw_crop
from trainer.data.recording_index import seconds_of, weights_of
from trainer.data.recordings import Clip, group_of, read_part
from trainer.data.sampling import Bucketed, InOrder, Shuffled, Slices, Wanted
from trainer.data.scan import audio_files, scan
from trainer.data.unreadable import Unreadable

__all__ = [
    "Bucketed",
    "Clip",
    "InOrder",
    "Segment",
    "SegmentLoader",
    "Shuffled",
    "TrainingSegments",
    "ValidationSegments",
    "audio_files",
    "crop",
    "group_of",
    "loader",
    "readable",
    "scan",
    "segment_of",
]


class Segment(NamedTuple):
    """One training or validation segment, or a batch of them."""

    audio: Tensor
    """Tensor[1 x T], or Tensor[B x 1 x T] in a batch; zero past the recording's end."""
    own: Tensor
    """The same shape: 1 where it is recording, 0 where it is padding.

    All 0 for a segment whose file could not be read, which `readable` leaves out.
    """


def segment_of(samples: Samples, length: int) -> Segment:
    """Return samples, at most ``length`` of them, as a segment of ``length``."""
    audio, own = torch.zeros(1, length), torch.zeros(1, length)
    audio[0, : len(samples)] = torch.from_numpy(samples)
    own[0, : len(samples)] = 1.0
    return Segment(audio, own)


def crop(clip: Clip, start: float, seconds: float, sample_rate: int) -> Segment:
    """Read ``seconds`` from ``start`` on by seeking; mono, resampled, padded with zeros.

    Raises
    ------
    AudioError
        As `trainer.data.recordings.read_part` does, which says more about the parameters.
    """
    samples = read_part(clip, start, seconds, sample_rate)
    return segment_of(samples, round(seconds * sample_rate))


def segments_in(seconds: float, length: float) -> int:
    """Return how many segments of ``length`` a recording of ``seconds`` gives: one at least."""
    return max(1, int(seconds / length))


class TrainingSegments(Dataset[Segment]):
    """Random crops: as many of each recording as fit into it, at least one.

    What item ``i`` of epoch ``e`` is depends on the seed, ``e`` and ``i`` alone, and not on
    which process reads it or what was read before.

    Parameters
    ----------
    clips
        Recordings. One of weight ``w`` gives ``w`` times as many segments; of what a
        fraction leaves over, the epoch decides which recordings have it.
    seconds
        Length of a segment; shorter recordings are padded and masked.
    sample_rate
        Hz.
    epoch, seed
        Decide the crops and what happens to them.
    gain_probability, gain_db
        How often a segment's level is changed, and the range in dB.
    augmentation
        All that happens to segments; in the place of the two before.
    unreadable
        Keeps note of recordings that turn out to be damaged.

    Raises
    ------
    TrainerError
        For an augmentation that the sample rate does not allow.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        seconds: float,
        sample_rate: int,
        *,
        epoch: int,
        seed: int,
        gain_probability: float = 0.0,
        gain_db: tuple[float, float] = (0.0, 0.0),
        augmentation: Augmentation | None = None,
        unreadable: Unreadable | None = None,
    ) -> None:
        self.clips, self.seconds, self.sample_rate = clips, seconds, sample_rate
        self.epoch, self.seed = epoch, seed
        self.augmentation = augmentation or Augmentation(
            gain_probability=gain_probability, gain_db=gain_db
        )
        self.augmentation.check(sample_rate)
        self.unreadable = Unreadable() if unreadable is None else unreadable
        self._owner = _owners(clips, seconds, (seed, epoch))

    def __len__(self) -> int:
        return len(self._owner)

    @property
    def own_samples(self) -> npt.NDArray[np.int64]:
        """What each segment has without its padding, for `trainer.data.sampling.Bucketed`."""
        whole = np.ceil(seconds_of(self.clips) * self.sample_rate).astype(np.int64)
        own: npt.NDArray[np.int64] = np.minimum(whole, round(self.seconds * self.sample_rate))
        return own[self._owner]

    def __getitem__(self, index: int | Wanted) -> Segment:
        """Return segment ``index`` of this epoch; a `Wanted` one is cut to its length."""
        length = round(self.seconds * self.sample_rate)
        if isinstance(index, Wanted):
            index, length = index
        random = np.random.default_rng((self.seed, self.epoch, index))
        clip = self.clips[self._owner[index]]
        speed = self.augmentation.speed(self.seed, self.epoch, index)
        try:
            samples = draw_crop(
                clip,
                self.seconds,
                length,
                self.sample_rate,
                random,
                speed=speed,
                min_db=self.augmentation.min_crop_db,
            )
        except AudioError as error:
            return _nothing(clip, error, length, self.unreadable)
        return segment_of(self.augmentation(samples, self.sample_rate, random), length)


def _owners(clips: Sequence[Clip], seconds: float, draw: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Return which clip each segment of an epoch is from."""
    numbers = np.arange(len(clips), dtype=np.int32)
    counts = np.maximum(1, (seconds_of(clips) / seconds).astype(np.int32))
    every = np.repeat(numbers, counts)
    weights = weights_of(clips)
    if (weights == 1.0).all():
        return every
    random = np.random.default_rng((*draw, len(every)))
    parts = []
    for weight in np.unique(weights):
        alike = every[weights[every] == weight]
        copies, rest = divmod(round(weight * len(alike)), len(alike))
        drawn = np.sort(random.choice(len(alike), rest, replace=False))
        parts += [alike] * copies + [alike[drawn]]
    return np.concatenate(parts)


def _nothing(clip: Clip, error: AudioError, length: int, unreadable: Unreadable) -> Segment:
    """Return a segment that owns nothing, having noted why."""
    unreadable.add(clip.name, str(error))
    return segment_of(np.zeros(0, np.float32), length)


class ValidationSegments(Dataset[Segment]):
    """Fixed crops: one per recording, spread evenly over the folder, always the same.

    Parameters
    ----------
    clips
        Recordings.
    seconds, sample_rate
        Of a segment.
    limit
        Largest number of segments.
    seed
        Decides where in its recording a segment starts.
    unreadable
        Keeps note of recordings that turn out to be damaged.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        seconds: float,
        sample_rate: int,
        limit: int,
        seed: int,
        unreadable: Unreadable | None = None,
    ) -> None:
        picks = np.unique(
            np.linspace(0, len(clips) - 1, min(limit, len(clips))).round().astype(int)
        )
        self.clips = [clips[pick] for pick in picks]
        self.seconds, self.sample_rate = seconds, sample_rate
        self.unreadable = Unreadable() if unreadable is None else unreadable
        places = np.random.default_rng((seed, 0)).random(len(self.clips))
        self._places = [float(place) for place in places]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Segment:
        """Return segment ``index``."""
        clip = self.clips[index]
        start = self._places[index] * max(0.0, clip.seconds - self.seconds)
        try:
            return crop(clip, start, self.seconds, self.sample_rate)
        except AudioError as error:
            length = round(self.seconds * self.sample_rate)
            return _nothing(clip, error, length, self.unreadable)


class SegmentLoader(StatefulDataLoader[Segment]):  # type: ignore[misc]
    """A loader of batches that can stop and go on: see ``state_dict``.

    Attributes
    ----------
    size
        Segments in a global batch.
    first
        The place in it of the first segment that this rank has.
    """

    size: int
    first: int

    def __iter__(self) -> Iterator[Segment]:
        """Start reading, in processes that only this one ends."""
        with loader_processes.starting():
            batches: Iterator[Segment] = super().__iter__()
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Return the position of a loader of shards, from which another can continue.

        Of other data nothing: how many batches there were says it all.
        """
        if not isinstance(self.dataset, IterableDataset):
            return {}
        return {"workers": self.num_workers, "position": super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the batch at which ``state_dict`` was called.

        The state must be of a loader with as many workers.
        """
        super().load_state_dict(state_dict["position"])


def loader(
    dataset: Dataset[Segment],
    batch: int,
    workers: int,
    order: Shuffled | None = None,
    done: int = 0,
) -> SegmentLoader:
    """Return a loader of batches; with a shuffled order, a rest that fills none is left out.

    Leaving it out keeps every step's share of the data the same; with fewer segments than
    one batch, the batch shrinks to their number.

    Parameters
    ----------
    dataset
        `TrainingSegments`, `ValidationSegments` or `trainer.data.shards.ShardSegments`.
    batch
        Segments in a global batch, of which the order's rank reads its slice. Shards have
        batches of their own, and this is not looked at.
    workers
        Processes that read; 0 reads in this one.
    order
        None for all segments as they are numbered.
    done
        Global batches at the order's beginning that are left out.

    Raises
    ------
    TrainerError
        When a batch has fewer segments than there are ranks.
    """
    how: dict[str, Any] = {"num_workers": workers, "pin_memory": torch.cuda.is_available()}
    if workers:
        how["worker_init_fn"] = loader_processes.outlive_signals
    if isinstance(dataset, IterableDataset):
        how["batch_size"] = None
        share: Any = dataset
        draw = share.draw
    else:
        order = order or InOrder(len(dataset))  # type: ignore[arg-type]
        how["batch_sampler"] = share = Slices(order, batch, done)
        draw = (order.seed, order.epoch, order.rank)
    # With a generator of its own, a loader seeds its workers by epoch and rank, and takes
    # nothing from the generator that a resumed run has to find where it was.
    (seed,) = np.random.SeedSequence(draw).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
    with warnings.catch_warnings():
        # torchdata tells PyTorch's telemetry that it is in use by a function that is going away.
        warnings.filterwarnings("ignore", "'set_vital' is deprecated", UserWarning)
        batches = SegmentLoader(dataset, generator=generator, **how)
    batches.size, batches.first = share.size, share.first
    return batches


def readable(batch: Segment) -> Segment:
    """Return ``batch``, [B x 1 x T], without the segments whose files could not be read."""
    present = batch.own.amax(dim=(1, 2)) > 0
    return batch if present.all() else Segment(batch.audio[present], batch.own[present])
