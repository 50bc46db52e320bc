"""Speech on disk as training segments: random crops to train on, fixed ones to compare with."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.errors import TrainerError

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64"})


class Clip(NamedTuple):
    """A recording on disk."""

    path: Path
    frames: int
    """Samples at the recording's own rate."""
    sample_rate: int
    """Hz."""

    @property
    def seconds(self) -> float:
        """Length."""
        return self.frames / self.sample_rate


class Segment(NamedTuple):
    """One training or validation segment, or a batch of them."""

    audio: Tensor
    """Tensor[1 x T], or Tensor[B x 1 x T] in a batch; zero past the recording's end."""
    own: Tensor
    """The same shape: 1 where it is recording, 0 where it is padding."""


def audio_files(folder: str | Path) -> list[Path]:
    """Return the audio files under ``folder``, sorted, by suffix.

    Raises
    ------
    TrainerError
        When the folder does not exist or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TrainerError(f"{folder} is not a folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise TrainerError(f"no audio under {folder}; known suffixes: {', '.join(sorted(SUFFIXES))}")
    return files


def scan(folder: str | Path) -> list[Clip]:
    """Return the readable recordings under ``folder``; the others are logged and counted.

    Raises
    ------
    TrainerError
        When none is readable.
    """
    clips, bad = [], 0
    for path in audio_files(folder):
        try:
            info = soundfile.info(path)
        except soundfile.LibsndfileError as error:
            log.warning("skipping %s: %s", path, error)
            bad += 1
            continue
        if info.frames > 0:
            clips.append(Clip(path, info.frames, info.samplerate))
        else:
            log.warning("skipping %s: it is empty", path)
            bad += 1
    if bad:
        log.warning("skipped %d of %d files under %s", bad, bad + len(clips), folder)
    if not clips:
        raise TrainerError(f"none of the {bad} audio files under {folder} can be read")
    return clips


def crop(clip: Clip, start: float, seconds: float, sample_rate: int) -> Segment:
    """Read ``seconds`` from ``start`` on by seeking; mono, resampled, padded with zeros.

    Parameters
    ----------
    clip
        The recording.
    start, seconds
        In seconds.
    sample_rate
        Hz of the result.
    """
    length = round(seconds * sample_rate)
    first = min(round(start * clip.sample_rate), clip.frames - 1)
    with soundfile.SoundFile(clip.path) as file:
        file.seek(first)
        frames = file.read(math.ceil(seconds * clip.sample_rate), np.float32, always_2d=True)
    samples: npt.NDArray[np.float32] = frames.mean(axis=1)
    if clip.sample_rate != sample_rate:
        samples = soxr.resample(samples, clip.sample_rate, sample_rate)
    samples = samples[:length]
    audio, own = torch.zeros(1, length), torch.zeros(1, length)
    audio[0, : len(samples)] = torch.from_numpy(samples)
    own[0, : len(samples)] = 1.0
    return Segment(audio, own)


class TrainingSegments(Dataset[Segment]):
    """Random crops: as many of each recording as fit into it, at least one.

    What item ``i`` of epoch ``e`` is depends on the seed, ``e`` and ``i`` alone, and not on
    which process reads it or what was read before.

    Parameters
    ----------
    clips
        Recordings.
    seconds
        Length of a segment; shorter recordings are padded and masked.
    sample_rate
        Hz.
    epoch, seed
        Decide the crops and gains.
    gain_probability, gain_db
        How often a segment's level is changed, and the range in dB.
    """

    def __init__(
        self,
        clips: list[Clip],
        seconds: float,
        sample_rate: int,
        *,
        epoch: int,
        seed: int,
        gain_probability: float = 0.0,
        gain_db: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.clips, self.seconds, self.sample_rate = clips, seconds, sample_rate
        self.epoch, self.seed = epoch, seed
        self.gain_probability, self.gain_db = gain_probability, gain_db
        counts = [max(1, int(clip.seconds / seconds)) for clip in clips]
        self._owner = np.repeat(np.arange(len(clips), dtype=np.int32), counts)

    def __len__(self) -> int:
        return len(self._owner)

    def __getitem__(self, index: int) -> Segment:
        """Return segment ``index`` of this epoch."""
        random = np.random.default_rng((self.seed, self.epoch, index))
        clip = self.clips[self._owner[index]]
        start = random.uniform(0.0, max(0.0, clip.seconds - self.seconds))
        segment = crop(clip, start, self.seconds, self.sample_rate)
        if random.random() >= self.gain_probability:
            return segment
        gain = 10.0 ** (random.uniform(*self.gain_db) / 20.0)
        # Clipping would teach the model distortion that is in no recording.
        peak = float(segment.audio.abs().max())
        return Segment(segment.audio * min(gain, 1.0 / max(peak, 1e-9)), segment.own)


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
    """

    def __init__(
        self, clips: list[Clip], seconds: float, sample_rate: int, limit: int, seed: int
    ) -> None:
        picks = np.unique(np.linspace(0, len(clips) - 1, min(limit, len(clips))).round().astype(int))
        self.clips = [clips[pick] for pick in picks]
        self.seconds, self.sample_rate = seconds, sample_rate
        places = np.random.default_rng((seed, 0)).random(len(self.clips))
        self._places = [float(place) for place in places]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Segment:
        """Return segment ``index``."""
        clip = self.clips[index]
        start = self._places[index] * max(0.0, clip.seconds - self.seconds)
        return crop(clip, start, self.seconds, self.sample_rate)


class Shuffled(Sampler[int]):
    """A fresh order per epoch, decided by the seed and the epoch alone."""

    def __init__(self, length: int, seed: int, epoch: int) -> None:
        self._order = np.random.default_rng((seed, epoch)).permutation(length)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order.tolist())


def loader(dataset: Dataset[Segment], batch: int, workers: int, order: Shuffled | None = None) -> (
    DataLoader[Segment]
):
    """Return a loader of batches; with an ``order``, a last batch that is not full is left out.

    Leaving it out keeps every step's share of the data the same; with fewer segments than
    one batch, the batch shrinks to what there is.
    """
    size = min(batch, len(order)) if order is not None else batch
    return DataLoader(
        dataset,
        batch_size=size,
        sampler=order,
        drop_last=order is not None,
        num_workers=workers,
        persistent_workers=False,
        pin_memory=torch.cuda.is_available(),
    )
