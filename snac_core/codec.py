"""The inference engine: waveforms to `Codes` and back, for any mix of lengths.

Work is planned as jobs, one per clip, each a list of steps, one per window. `Codec.run`
computes any mix of steps of one kind in one micro-batch, so that a caller may schedule the
windows of many clips as it likes; `encode` and `decode` are the plain loop over that. How a
batch of one kind is computed is up to that kind of job; streams bring their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from snac_core.audio import check_samples
from snac_core.codes import Codes
from snac_core.errors import CodesError
from snac_core.extent import Extent, Noise
from snac_core.model import SNAC
from snac_core.windows import Window, plan

Samples: TypeAlias = npt.NDArray[np.float32]
Kind: TypeAlias = Literal["encode", "decode", "stream-encode", "stream-decode"]
NoiseMode: TypeAlias = Literal["seeded", "off"]
Precision: TypeAlias = Literal["fp32", "bf16"]

WINDOW_SECONDS = 4.0
CUDA_BATCH_SECONDS = 128.0


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


class Job:
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
    def compute(cls, codec: Codec, steps: Sequence[Step]) -> Sequence[Any]:
        """Return what each of ``steps``, all of this kind, comes to.

        Where it raises, none of the steps may have left a trace.
        """
        raise NotImplementedError

    def take(self, window: Window, result: Any) -> None:
        """Keep what ``window`` came to."""
        raise NotImplementedError

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
    def compute(cls, codec: Codec, steps: Sequence[Step]) -> Sequence[Any]:
        """Return each window's codes of each level."""
        return codec._windowed(codec._encode_windows, steps)

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
    def compute(cls, codec: Codec, steps: Sequence[Step]) -> Sequence[Any]:
        """Return each window's audio."""
        return codec._windowed(codec._decode_windows, steps)

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


class Codec:
    """A model ready to encode and decode.

    Parameters
    ----------
    model
        The network; its weights are folded in place.
    version, token_space
        The model's identity, as every answer names it.
    device
        ``cpu``, ``cuda`` or any other torch device.
    precision
        Of decoding; encoding is always fp32, as lower precision changes codes.
    window_seconds
        Audio kept of each window of a long clip; bounds memory.
    batch_seconds
        Audio computed at once by `encode` and `decode`. None picks for the device.
    """

    def __init__(
        self,
        model: SNAC,
        *,
        version: str,
        token_space: str,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        window_seconds: float = WINDOW_SECONDS,
        batch_seconds: float | None = None,
    ) -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be 'fp32' or 'bf16', not {precision!r}")
        self.device = torch.device(device)
        self.config = model.config
        self.version, self.token_space = version, token_space
        self.precision: Precision = precision
        self._model = model.eval().requires_grad_(False).fold().to(self.device)
        self._core_samples = round(window_seconds * self.config.sampling_rate)
        # A CPU computes window by window; see `run`.
        on_cpu = self.device.type == "cpu"
        self._batch_seconds = batch_seconds or (0.0 if on_cpu else CUDA_BATCH_SECONDS)

    @property
    def model(self) -> SNAC:
        """The network, folded and on the device."""
        return self._model

    @property
    def sample_rate(self) -> int:
        """Hz of the audio on both sides."""
        return self.config.sampling_rate

    def encode(self, waves: Sequence[Samples]) -> list[Codes]:
        """Encode clips of any lengths.

        Parameters
        ----------
        waves
            Float arrays, [num_samples] each, mono, at ``sample_rate``, in [-1, 1].

        Returns
        -------
        list of Codes
            One per clip, in order; what a clip gives does not depend on the others.

        Raises
        ------
        AudioError
            When a clip is empty, not one-dimensional or not finite.
        """
        jobs = [self.encode_job(wave) for wave in waves]
        self._run_all([step for job in jobs for step in job.steps])
        return [job.result() for job in jobs]

    def decode(
        self, codes: Sequence[Codes], noise: NoiseMode = "seeded", seed: int = 0
    ) -> list[Samples]:
        """Decode codes of any lengths.

        Parameters
        ----------
        codes
            One `Codes` per clip.
        noise
            ``seeded`` draws decoder noise from the seed and the position in the clip, so
            that the same codes always give the same audio; ``off`` leaves it out.
        seed
            Any whole number of at most 64 bits.

        Returns
        -------
        list of numpy.ndarray
            Float32, [num_samples] each, in [-1, 1].

        Raises
        ------
        CodesError
            When codes do not fit this model.
        """
        jobs = [self.decode_job(item, noise, seed) for item in codes]
        self._run_all([step for job in jobs for step in job.steps])
        return [job.result() for job in jobs]

    def encode_job(self, wave: Samples) -> EncodeJob:
        """Plan the encoding of one clip; raises AudioError as `encode` does."""
        wave = check_samples(wave)
        return EncodeJob(wave, plan(self.config, len(wave), self._core_samples), self._model)

    def decode_job(self, codes: Codes, noise: NoiseMode = "seeded", seed: int = 0) -> DecodeJob:
        """Plan the decoding of one clip; raises CodesError as `decode` does."""
        check_noise(noise, seed)
        codes.validate(self.config)
        samples = codes.levels[0].size * self.config.frame_samples
        if samples % self.config.pad_multiple:
            frames = self.config.pad_multiple // self.config.frame_samples
            raise CodesError(
                f"level 0 has {codes.levels[0].size} codes; this model's attention needs a "
                f"multiple of {frames}"
            )
        return DecodeJob(
            codes, plan(self.config, samples, self._core_samples), self._model, noise, seed
        )

    def run(self, steps: Sequence[Step]) -> None:
        """Compute ``steps``, all of one kind, as one micro-batch, and hand results to their jobs.

        Raises
        ------
        ValueError
            When ``steps`` mixes kinds, such as encoding and decoding.
        torch.OutOfMemoryError
            When the device cannot hold the batch; no step of it counts as run then.
        """
        kinds = {step.kind for step in steps}
        if len(kinds) > 1:
            raise ValueError(f"a micro-batch holds steps of one kind, not both {_listed(kinds)}")
        if steps:
            results = type(steps[0].job).compute(self, steps)
            for step, result in zip(steps, results, strict=True):
                step.job.take(step.window, result)

    def _windowed(
        self, compute: Callable[[list[Step]], list[Any]], steps: Sequence[Step]
    ) -> list[Any]:
        # A CPU gains nothing from padding windows to a common length; taken one by one they
        # also round as they do alone, bit for bit.
        groups = [[step] for step in steps] if self.device.type == "cpu" else [list(steps)]
        return [result for group in groups for result in compute(group)]

    def _run_all(self, steps: list[Step]) -> None:
        # Windows of like length together, so that little of a batch is padding.
        for batch in self._batches(sorted(steps, key=lambda step: step.window.samples)):
            self.run(batch)

    def _batches(self, steps: list[Step]) -> Iterator[list[Step]]:
        batch: list[Step] = []
        for step in steps:
            if batch and step.seconds * (len(batch) + 1) > self._batch_seconds:
                yield batch
                batch = []
            batch.append(step)
        if batch:
            yield batch

    @torch.inference_mode()
    def _encode_windows(self, steps: list[Step]) -> list[list[npt.NDArray[np.int64]]]:
        longest = max(step.window.samples for step in steps)
        audio = np.zeros((len(steps), 1, longest), np.float32)
        for row, step in zip(audio, steps, strict=True):
            assert isinstance(step.job, EncodeJob)
            part = step.job.wave[step.window.start : step.window.stop]
            row[0, : len(part)] = part
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            codes = self._model.encode(
                torch.from_numpy(audio).to(self.device), self._extent(steps, longest)
            )
        levels = [level.cpu().numpy() for level in codes]
        return [[level[row] for level in levels] for row in range(len(steps))]

    @torch.inference_mode()
    def _decode_windows(self, steps: list[Step]) -> list[Samples]:
        longest = max(step.window.samples for step in steps)
        strides = [self.config.hop * stride for stride in self.config.vq_strides]
        codes = [np.zeros((len(steps), longest // stride), np.int64) for stride in strides]
        for row, step in enumerate(steps):
            assert isinstance(step.job, DecodeJob)
            for out, level, stride in zip(codes, step.job.codes.levels, strides, strict=True):
                part = level[step.window.start // stride : step.window.stop // stride]
                out[row, : len(part)] = part
        noise = {step.job.noise for step in steps if isinstance(step.job, DecodeJob)}
        if len(noise) > 1:
            return [audio for step in steps for audio in self._decode_windows([step])]
        extent = self._extent(steps, longest, noise=self._noise(steps))
        half = self.precision == "bf16"
        with (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast(self.device.type, torch.bfloat16, enabled=half),
        ):
            audio = self._model.decode(
                [torch.from_numpy(level).to(self.device) for level in codes], extent
            )
        return list(audio[:, 0].float().cpu().numpy())

    def _extent(self, steps: list[Step], longest: int, noise: Noise | str = "off") -> Extent:
        lengths = [step.window.samples for step in steps]
        return Extent(longest, None if min(lengths) == longest else self._tensor(lengths), noise)

    def _noise(self, steps: list[Step]) -> Noise | str:
        jobs = [step.job for step in steps if isinstance(step.job, DecodeJob)]
        if jobs[0].noise == "off":
            return "off"
        starts = [step.window.start for step in steps]
        return Noise(self._tensor([job.seed for job in jobs]), self._tensor(starts))

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


def check_noise(noise: str, seed: int) -> None:
    """Raise ValueError unless decoding takes this noise mode and seed."""
    if noise not in ("seeded", "off"):
        raise ValueError(f"noise must be 'seeded' or 'off', not {noise!r}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must fit 64 bits, not {seed}")


def _listed(kinds: set[Kind]) -> str:
    return " and ".join(sorted(kinds))
