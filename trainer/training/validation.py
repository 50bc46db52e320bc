"""Validation on fixed segments, with the same results on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Subset

from snac_core import quality
from snac_core.model import SNAC, Reconstruction
from snac_core.model.noise import Noise
from snac_core.model.quantizer import Level
from snac_core.types import Samples
from trainer.config import TrainConfig, curriculum
from trainer.config.types import QUALITIES, Quality
from trainer.data.loader_processes import ReaderDiedError, reading
from trainer.data.segments import Clip, ValidationSegments, loader
from trainer.data.unreadable import Unreadable
from trainer.errors import TrainerError
from trainer.losses.losses import Losses
from trainer.model.compile import uncompiled
from trainer.runtime.distributed import World
from trainer.runtime.stopping import Stopped
from trainer.training.batches import Batch, DeviceTransfer

Terms = dict[str, float]
Segments = dict[str, Tensor]
"""Figures by segment, Tensor[segments] of float64 each; NaN for one that cannot be read."""

MEASURES: dict[Quality, Callable[[Samples, Samples, int], float]] = {
    "log_mel": quality.log_mel_distance,
    "si_sdr": lambda reference, made, _: quality.si_sdr(reference, made),
    "stoi": quality.stoi,
}
"""From recording, reconstruction and sample rate."""

NOTHING = -1
"""Stands in the place of a code where there is no recording."""


class Measured(NamedTuple):
    """The result of a validation."""

    terms: Terms
    """Mean over the segments of each loss term, of ``loss``, and of each quality measured."""
    codes: list[Tensor]
    """One Tensor[segments x T] of int16 per level, coarse to fine; `NOTHING` past the end."""
    segments: Segments
    """Each loss term, ``loss``, and each of `ValidationSet.qualities`."""


class Change(NamedTuple):
    """The mean of paired differences, and half the width of its 95 % confidence interval."""

    mean: float
    ci95: float


class _Part(NamedTuple):
    """The figures of one batch of segments."""

    first: int
    read: Tensor
    """Tensor[segments] of bool: which of them could be read."""
    codes: list[Tensor]
    segments: Segments


class ValidationSet:
    """The validation segments of a run, with noise of their own that is the same every time.

    Parameters
    ----------
    config
        Says how many segments, from which seed, and what the loss is.
    clips
        Recordings.
    sample_rate
        Hz.
    world
        The processes that divide the batches. Each batch is computed whole by one, so that
        how many they are changes no bit of the result.
    transfer
        Counts what cannot be read.
    unreadable
        Keeps note of it.
    stop
        Whether to give up.
    place
        Where the recordings are from; by default, ``val_data``.

    Attributes
    ----------
    qualities
        The figures that are measured besides the loss.
    """

    def __init__(
        self,
        config: TrainConfig,
        clips: Sequence[Clip],
        sample_rate: int,
        world: World,
        transfer: DeviceTransfer,
        unreadable: Unreadable | None = None,
        stop: Callable[[], bool] | None = None,
        place: str | None = None,
    ) -> None:
        self.place = config.val_data if place is None else place
        self.config, self.clips, self.sample_rate = config, clips, sample_rate
        self.world, self.transfer, self.stop = world, transfer, stop or _never
        self.unreadable = Unreadable() if unreadable is None else unreadable
        self.losses = Losses(config, sample_rate).to(world.device)
        self.seconds = curriculum.longest(config).length
        wanted = {config.best_metric, *(config.gate_metrics if config.publish_to else ())}
        self.qualities = [name for name in QUALITIES if place is None and name in wanted]

    def segments(self, seconds: float) -> ValidationSegments:
        """Return the fixed segments of one length."""
        config = self.config
        return ValidationSegments(
            self.clips,
            seconds,
            self.sample_rate,
            config.val_segments,
            config.random_seed,
            self.unreadable,
        )

    def measure(
        self, model: SNAC, seconds: float | None = None, world: World | None = None
    ) -> Measured:
        """Return the model's loss terms over segments of ``seconds``, and its codes.

        Parameters
        ----------
        model
            On the device.
        seconds
            Length of the segments; that of the longest stage by default.
        world
            The processes that take part in this, if not all; those do not give up.

        Raises
        ------
        TrainerError
            When none of the segments can be read, the loss is not finite, or a process that
            reads was killed.
        Stopped
            When any process was asked to stop meanwhile.
        """
        stop = self.stop if world is None else _never
        world = world or self.world
        was_training = model.training
        model.eval()
        mine: list[_Part] = []
        lost: ReaderDiedError | None = None
        segments = self.segments(seconds or self.seconds)
        try:
            with torch.no_grad(), uncompiled(self.config.compile), reading():
                mine = self._measure(model, segments, world, stop)
        except ReaderDiedError as error:
            lost = error
        model.train(was_training)
        answers = world.gather((mine, stop(), lost is not None))
        if any(stopped for _, stopped, _ in answers):
            raise Stopped
        if any(died for *_, died in answers):
            raise lost or ReaderDiedError("of another process")
        parts = [part for parts, *_ in answers for part in parts]
        return self._together(sorted(parts, key=lambda part: part.first), len(segments))

    def _measure(
        self,
        model: SNAC,
        segments: ValidationSegments,
        world: World,
        stop: Callable[[], bool],
    ) -> list[_Part]:
        size = self.config.eval_batch_size or curriculum.longest(self.config).batch
        firsts = list(range(0, len(segments), size))[world.rank :: world.size]
        places = [place for first in firsts for place in range(len(segments))[first : first + size]]
        found: list[_Part] = []
        if not places:
            return found
        workers = min(self.config.num_workers, len(firsts))
        batches = loader(Subset(segments, places), size, workers)
        for first, loaded in zip(firsts, batches, strict=True):
            if stop():
                break
            batch = self.transfer.take(loaded, first)
            if not len(batch.audio):
                continue
            # By its number alone: a segment's noise is the same in any batch.
            noise = Noise(batch.places, torch.zeros_like(batch.places))
            out = model(batch.audio, batch.context(model.config, noise))
            where = batch.places.cpu() - first
            figures = self._figures(out, batch, where, len(loaded.audio))
            codes = [_own_codes(level, batch.own, where, len(loaded.audio)) for level in out.levels]
            read = torch.zeros(len(loaded.audio), dtype=torch.bool)
            read[where] = True
            found.append(_Part(first, read, codes, figures))
        return found

    def _figures(self, out: Reconstruction, batch: Batch, where: Tensor, count: int) -> Segments:
        """Return the figures of ``count`` segments, those of row i of the batch at ``where[i]``.

        Each segment is measured alone, so that neither the batch that it is in nor the size of
        that batch changes its figures.
        """
        rows: list[dict[str, Tensor]] = []
        for row in range(len(batch.audio)):
            one = slice(row, row + 1)
            levels = [Level(*(field[one] for field in level)) for level in out.levels]
            made = Reconstruction(out.audio[one], levels)
            rows.append(self.losses(made, batch.audio[one], batch.own[one]))
            length = int(batch.own[row].sum())
            reference, heard = (
                audio[row, 0, :length].float().cpu() for audio in (batch.audio, out.audio)
            )
            rows[-1] |= self._quality(reference, heard, batch.audio.device)
        values = torch.stack([torch.stack(list(row.values())) for row in rows]).double().cpu()
        table = torch.full((count, values.shape[1]), math.nan, dtype=torch.float64)
        table[where] = values
        return dict(zip(rows[0], table.T, strict=True))

    def _quality(self, reference: Tensor, made: Tensor, device: torch.device) -> Segments:
        pair = (reference.numpy(), made.numpy(), self.sample_rate)
        return {
            name: torch.tensor(MEASURES[name](*pair), dtype=torch.float32, device=device)
            for name in self.qualities
        }

    def _together(self, parts: list[_Part], count: int) -> Measured:
        if not parts:
            raise TrainerError(f"none of the recordings in {self.place} can be read")
        codes = [torch.cat(levels) for levels in zip(*(p.codes for p in parts), strict=True)]
        names, read = parts[0].segments, torch.zeros(count, dtype=torch.bool)
        segments = {name: torch.full((count,), math.nan, dtype=torch.float64) for name in names}
        for part in parts:
            place = slice(part.first, part.first + len(part.read))
            read[place] = part.read
            for name, values in part.segments.items():
                segments[name][place] = values
        terms = {name: _mean(segments[name][read], name in self.qualities) for name in names}
        if not math.isfinite(terms["loss"]):
            raise TrainerError(f"the validation loss is {terms['loss']}")
        return Measured(terms, codes, segments)


def _mean(values: Tensor, finite: bool) -> float:
    """Return the mean of ``values``, of all or of those that are finite."""
    # A quality is not defined for every segment, such as SI-SDR for silence.
    return float(values[values.isfinite()].mean() if finite else values.mean())


def paired_change(after: Tensor, before: Tensor) -> Change:
    """Return the change of a metric on the same segments, Tensor[segments] each.

    The interval is by the normal approximation, and infinite for fewer than two segments.
    """
    change = after - before
    change = change[change.isfinite()]
    if len(change) < 2:
        return Change(float(change.sum()), math.inf)
    return Change(float(change.mean()), 1.96 * float(change.std()) / math.sqrt(len(change)))


def _never() -> bool:
    return False


def agreement(codes: list[Tensor], others: list[Tensor]) -> float:
    """Return the share of places with recording in which two models chose the same code.

    Parameters
    ----------
    codes, others
        `Measured.codes` of the same segments; NaN when they share no place.
    """
    same = there = 0
    for one, other in zip(codes, others, strict=True):
        both = (one != NOTHING) & (other != NOTHING)
        same += int(((one == other) & both).sum())
        there += int(both.sum())
    return same / there if there else math.nan


def _own_codes(level: Level, own: Tensor, where: Tensor, count: int) -> Tensor:
    """Return Tensor[count x T]: codes up to each segment's end, those of row i at ``where[i]``."""
    codes = level.codes.short()
    samples = own.shape[-1] // codes.shape[-1]
    starts = samples * torch.arange(codes.shape[-1], device=own.device)
    codes = torch.where(starts < own.sum(dim=(1, 2))[:, None], codes, NOTHING)
    rows = torch.full((count, codes.shape[-1]), NOTHING, dtype=torch.int16)
    rows[where] = codes.cpu()
    return rows
