"""The work of a codec: clips as jobs, and the windows they are cut into as steps.

A job plans one clip and keeps what its steps come to. How a micro-batch of one kind is
computed is up to that kind of job; streams bring their own.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from snac_core.codes import Codes
from snac_core.inference.networks import Networks
from snac_core.inference.windows import Window
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise
from snac_core.types import Kind, NoiseMode, Samples


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One window of one job: the unit that is scheduled."""

    job: Job
    window: Window

    @property
    def kind(self) -> Kind:
        """What the step does; a micro-batch holds one kind."""
        return self.job.kind

    @property
    def seconds(self) -> float:
        """Audio that the engine computes for this step, context included."""
        return self.window.samples / self.job.sample_rate


class Job(ABC):
    """A clip's steps, and how many of them have run."""

    kind: ClassVar[Kind]

    def __init__(self, windows: list[Window], sample_rate: int) -> None:
        self.windows, self.sample_rate = windows, sample_rate
        self._left = len(windows)

    @property
    def steps(self) -> list[Step]:
        """One per window, in order of time.

        Made when asked for: a job that held steps, which hold it, would keep an hour of audio
        until the garbage collector came by.
        """
        return [Step(self, window) for window in self.windows]

    @property
    def seconds(self) -> float:
        """Audio that the engine computes for the whole job."""
        return sum(window.samples for window in self.windows) / self.sample_rate

    @property
    def done(self) -> bool:
        """Whether every step has run."""
        return self._left == 0

    @classmethod
    @abstractmethod
    def compute(cls, networks: Networks, steps: Sequence[Step]) -> Sequence[Any]:
        """Return what each of ``steps``, all of this kind, comes to.

        Where it raises, none of the steps may have left a trace.
        """

    @abstractmethod
    def take(self, window: Window, result: Any) -> None:
        """Keep what ``window`` came to."""

    def _need_done(self) -> None:
        if not self.done:
            raise RuntimeError(f"{self._left} of {len(self.windows)} steps have not run")


class EncodeJob(Job):
    """A waveform to be encoded."""

    kind = "encode"

    def __init__(self, wave: Samples, windows: list[Window], model: SNAC) -> None:
        config = model.config
        super().__init__(windows, config.sampling_rate)
        self.wave = wave
        self._strides = [config.hop * stride for stride in config.vq_strides]
        total = config.padded_samples(len(wave))
        self._levels = [np.empty(total // stride, np.int32) for stride in self._strides]

    @classmethod
    @torch.inference_mode()
    def compute(cls, networks: Networks, steps: Sequence[Step]) -> Sequence[Any]:
        """Return each window's codes of each level."""
        return [made for group in _groups(networks, steps) for made in cls._batch(networks, group)]

    @staticmethod
    def _batch(networks: Networks, steps: list[Step]) -> list[list[npt.NDArray[np.int64]]]:
        longest = max(step.window.samples for step in steps)
        audio = np.zeros((len(steps), 1, longest), np.float32)
        for row, step in zip(audio, steps, strict=True):
            assert isinstance(step.job, EncodeJob)
            part = step.job.wave[step.window.start : step.window.stop]
            row[0, : len(part)] = part
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            codes = networks.encoder.encode(
                torch.from_numpy(audio).to(networks.device), _context(networks, steps, longest)
            )
        levels = [level.cpu().numpy() for level in codes]
        return [[level[row] for level in levels] for row in range(len(steps))]

    def take(self, window: Window, levels: Sequence[npt.NDArray[np.int64]]) -> None:
        """Keep a window's core out of what was computed for all of it."""
        for out, codes, stride in zip(self._levels, levels, self._strides, strict=True):
            first, last = window.core_start // stride, window.core_stop // stride
            skip = window.start // stride
            out[first:last] = codes[first - skip : last - skip]
        self._left -= 1

    def result(self) -> Codes:
        """Return the clip's codes; raises RuntimeError while steps are left."""
        self._need_done()
        return Codes(tuple(self._levels), len(self.wave), self.sample_rate)


class DecodeJob(Job):
    """Codes to be decoded."""

    kind = "decode"

    def __init__(
        self, codes: Codes, windows: list[Window], model: SNAC, noise: NoiseMode, seed: int
    ) -> None:
        super().__init__(windows, model.config.sampling_rate)
        self.codes, self.noise, self.seed = codes, noise, seed
        self._audio = np.empty(codes.num_samples, np.float32)

    @classmethod
    @torch.inference_mode()
    def compute(cls, networks: Networks, steps: Sequence[Step]) -> Sequence[Any]:
        """Return each window's audio."""
        return [made for group in _groups(networks, steps) for made in cls._batch(networks, group)]

    @classmethod
    def _batch(cls, networks: Networks, steps: list[Step]) -> list[Samples]:
        longest = max(step.window.samples for step in steps)
        strides = [networks.config.hop * stride for stride in networks.config.vq_strides]
        codes = [np.zeros((len(steps), longest // stride), np.int64) for stride in strides]
        for row, step in enumerate(steps):
            assert isinstance(step.job, DecodeJob)
            for out, level, stride in zip(codes, step.job.codes.levels, strides, strict=True):
                part = level[step.window.start // stride : step.window.stop // stride]
                out[row, : len(part)] = part
        noise = {step.job.noise for step in steps if isinstance(step.job, DecodeJob)}
        if len(noise) > 1:
            return [audio for step in steps for audio in cls._batch(networks, [step])]
        context = _context(networks, steps, longest, noise=_noise(networks, steps))
        half = networks.precision == "bf16"
        with (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast(networks.device.type, torch.bfloat16, enabled=half),
        ):
            audio = networks.decoder.decode(
                [torch.from_numpy(level).to(networks.device) for level in codes], context
            )
        return list(audio[:, 0].float().cpu().numpy())

    def take(self, window: Window, audio: Samples) -> None:
        """Keep a window's core out of what was computed for all of it."""
        last = min(window.core_stop, len(self._audio))
        if last > window.core_start:
            kept = audio[window.core_start - window.start : last - window.start]
            self._audio[window.core_start : last] = kept
        self._left -= 1

    def result(self) -> Samples:
        """Return float32 audio, [num_samples]; raises RuntimeError while steps are left."""
        self._need_done()
        return self._audio


def _groups(networks: Networks, steps: Sequence[Step]) -> list[list[Step]]:
    # A CPU gains nothing from padding windows to a common length; taken one by one they
    # also round as they do alone, bit for bit.
    return [[step] for step in steps] if networks.device.type == "cpu" else [list(steps)]


def _context(
    networks: Networks, steps: list[Step], longest: int, noise: Noise | str = "off"
) -> BatchContext:
    lengths = [step.window.samples for step in steps]
    own = None if min(lengths) == longest else torch.tensor(lengths, device=networks.device)
    return BatchContext(longest, own, noise)


def _noise(networks: Networks, steps: list[Step]) -> Noise | str:
    jobs = [step.job for step in steps if isinstance(step.job, DecodeJob)]
    if jobs[0].noise == "off":
        return "off"
    seeds = torch.tensor([job.seed for job in jobs], device=networks.device)
    return Noise(seeds, torch.tensor([s.window.start for s in steps], device=networks.device))
