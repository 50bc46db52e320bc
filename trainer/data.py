"""Speech on disk as training segments: random crops to train on, fixed ones to compare with."""

from __future__ import annotations

import logging
import math
import os
import re
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
from tqdm import tqdm

from snac_core.errors import AudioError
from trainer.errors import TrainerError

log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
)

UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile says of a recording whose header does not tell its length."""

CONTEXT_SECONDS = 0.02
"""Read on both sides of what is resampled; longer than the resampler's filter."""


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
    """The same shape: 1 where it is recording, 0 where it is padding.

    All 0 for a segment whose file could not be read, which `readable` leaves out.
    """


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
        raise TrainerError(
            f"no audio under {folder}; known suffixes: {', '.join(sorted(SUFFIXES))}"
        )
    return files


def scan(folder: str | Path) -> list[Clip]:
    """Return the readable recordings under ``folder``; the others are logged and counted.

    Raises
    ------
    TrainerError
        When none is readable.
    """
    clips = []
    files = audio_files(folder)
    for path in tqdm(files, f"reading {folder}", unit="file", delay=2):
        try:
            info = soundfile.info(os.fsencode(path))
        except soundfile.LibsndfileError as error:
            log.warning("skipping %s: %s", path, error.error_string)
            continue
        if 0 < info.frames < UNKNOWN_FRAMES:
            clips.append(Clip(path, info.frames, info.samplerate))
        else:
            fault = "its header does not say how long it is" if info.frames else "it is empty"
            log.warning("skipping %s: %s", path, fault)
    if len(clips) < len(files):
        log.warning("skipped %d of %d files under %s", len(files) - len(clips), len(files), folder)
    if not clips:
        raise TrainerError(f"none of the {len(files)} audio files under {folder} can be read")
    return clips


def group_of(path: Path, group_by: str) -> str:
    """Return the group, such as the speaker, that a recording belongs to.

    Parameters
    ----------
    path
        The recording.
    group_by
        ``"folder"``, or a regular expression whose first group (or whole match) in the file
        name is what to return.

    Raises
    ------
    TrainerError
        When the name does not match, or ``group_by`` is no regular expression.
    """
    if group_by == "folder":
        return path.parent.name
    try:
        match = re.search(group_by, path.name)
    except re.error as error:
        raise TrainerError(f"{group_by!r} is not a regular expression: {error}") from error
    if match is None or (match.re.groups and match[1] is None):
        raise TrainerError(f"the file name {path.name!r} does not match {group_by!r}")
    return match[1] if match.re.groups else match[0]


def crop(clip: Clip, start: float, seconds: float, sample_rate: int) -> Segment:
    """Read ``seconds`` from ``start`` on by seeking; mono, resampled, padded with zeros.

    It is the same slice that the whole recording, resampled, would give.

    Parameters
    ----------
    clip
        The recording.
    start, seconds
        In seconds. The start is rounded down to where both sample rates have a sample.
    sample_rate
        Hz of the result.

    Raises
    ------
    AudioError
        When the file cannot be read, or there is nothing where its header promised samples,
        or samples are not finite.
    """
    length = round(seconds * sample_rate)
    per_second = math.gcd(clip.sample_rate, sample_rate)
    step_in, step_out = clip.sample_rate // per_second, sample_rate // per_second
    first = int(start * per_second)
    context = math.ceil(CONTEXT_SECONDS * per_second) if step_in != step_out else 0
    before = min(first, context)
    steps = before + math.ceil(length / step_out) + context
    samples = _read(clip, (first - before) * step_in, steps * step_in)
    if step_in != step_out:
        samples = soxr.resample(samples, clip.sample_rate, sample_rate)
    samples = samples[before * step_out :][:length]
    audio, own = torch.zeros(1, length), torch.zeros(1, length)
    audio[0, : len(samples)] = torch.from_numpy(samples)
    own[0, : len(samples)] = 1.0
    return Segment(audio, own)


def _read(clip: Clip, first: int, count: int) -> npt.NDArray[np.float32]:
    """Return up to ``count`` samples from ``first`` on, channels averaged."""
    try:
        with soundfile.SoundFile(os.fsencode(clip.path)) as file:
            file.seek(first)
            frames = file.read(count, np.float32, always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{clip.path} cannot be read from sample {first} on: {error.error_string}"
        ) from error
    if not len(frames):
        raise AudioError(f"{clip.path} ends before sample {first} of {clip.frames}")
    with np.errstate(over="ignore", invalid="ignore"):
        samples: npt.NDArray[np.float32] = frames.mean(axis=1)
    if not np.isfinite(samples).all():
        raise AudioError(f"{clip.path} has samples that are not finite after sample {first}")
    return samples


def _crop_or_nothing(clip: Clip, start: float, seconds: float, sample_rate: int) -> Segment:
    """Return a segment that owns nothing where a file turns out to be damaged."""
    try:
        return crop(clip, start, seconds, sample_rate)
    except AudioError as error:
        log.warning("skipping a segment: %s", error)
        nothing = torch.zeros(1, round(seconds * sample_rate))
        return Segment(nothing, nothing.clone())


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
        segment = _crop_or_nothing(clip, start, self.seconds, self.sample_rate)
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
        picks = np.unique(
            np.linspace(0, len(clips) - 1, min(limit, len(clips))).round().astype(int)
        )
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
        return _crop_or_nothing(clip, start, self.seconds, self.sample_rate)


class Shuffled(Sampler[int]):
    """A fresh order per epoch, decided by the seed and the epoch alone."""

    def __init__(self, length: int, seed: int, epoch: int) -> None:
        self.length, self.seed, self.epoch = length, seed, epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return iter(order.tolist())


def loader(
    dataset: Dataset[Segment], batch: int, workers: int, order: Shuffled | None = None
) -> DataLoader[Segment]:
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
        pin_memory=torch.cuda.is_available(),
    )


def readable(batch: Segment) -> Segment:
    """Return ``batch``, [B x 1 x T], without the segments whose files could not be read."""
    present = batch.own.amax(dim=(1, 2)) > 0
    return batch if present.all() else Segment(batch.audio[present], batch.own[present])
