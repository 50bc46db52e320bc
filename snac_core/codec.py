"""The inference engine: waveforms to `Codes` and back, for any mix of lengths.

Work is planned as jobs, one per clip, each a list of steps, one per window. `Codec.run`
computes any mix of steps of one kind in one micro-batch, so that a caller may schedule the
windows of many clips as it likes; `encode` and `decode` are the plain loop over that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch

from snac_core.audio import check_samples
from snac_core.codes import Codes
from snac_core.errors import CodesError
from snac_core.inference.jobs import DecodeJob, EncodeJob, Step
from snac_core.inference.networks import CUDA_BATCH_SECONDS, Network, Networks
from snac_core.inference.windows import plan
from snac_core.model import SNAC
from snac_core.types import Compile, Kind, NoiseMode, Precision, Samples

WINDOW_SECONDS = 8.0


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
    compile
        Whether a CPU computes with `snac_core.kernels`: ``auto`` does where they can be had, and
        warns where they cannot; ``on`` raises KernelsError there; ``off`` runs the layers as
        they are written, several times slower. A CUDA GPU computes with
        `snac_core.kernels.gpu` and CUDA graphs where it is ``on``, and else with the layers.
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
        compile: Compile = "auto",
    ) -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be 'fp32' or 'bf16', not {precision!r}")
        self.device = torch.device(device)
        self.config = model.config
        self.version, self.token_space = version, token_space
        self.precision: Precision = precision
        self.networks = Networks(model, self.device, precision, compile)
        self._core_samples = round(window_seconds * self.config.sampling_rate)
        # A CPU computes window by window; see `EncodeJob.compute`.
        on_cpu = self.device.type == "cpu"
        self._batch_seconds = batch_seconds or (0.0 if on_cpu else CUDA_BATCH_SECONDS)

    @property
    def model(self) -> SNAC:
        """The network, folded and on the device."""
        return self.networks.model

    @property
    def encoder(self) -> Network:
        """The network that encodes on this device; its codes are those of the model."""
        return self.networks.encoder

    @property
    def decoder(self) -> Network:
        """The network that decodes on this device, in this precision."""
        return self.networks.decoder

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
        self.run_all([step for job in jobs for step in job.steps])
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
        self.run_all([step for job in jobs for step in job.steps])
        return [job.result() for job in jobs]

    def encode_job(self, wave: Samples) -> EncodeJob:
        """Plan the encoding of one clip; raises AudioError as `encode` does."""
        wave = check_samples(wave)
        return EncodeJob(wave, plan(self.config, len(wave), self._core_samples), self.model)

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
            codes, plan(self.config, samples, self._core_samples), self.model, noise, seed
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
            results = type(steps[0].job).compute(self.networks, steps)
            for step, result in zip(steps, results, strict=True):
                step.job.take(step.window, result)

    def preemptible(self, callback: Callable[[], None]) -> AbstractContextManager[None]:
        """Within the block, have `run` call ``callback`` between layers, on its own thread.

        The callback may `run` other steps. On a GPU, where layers are only queued, it is
        never called.
        """
        points = self.networks.preemption
        return points.preemptible(callback) if points else contextlib.nullcontext()

    def run_all(self, steps: Sequence[Step]) -> None:
        """Compute any number of ``steps`` of one kind, in micro-batches that suit the device."""
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


def check_noise(noise: str, seed: int) -> None:
    """Raise ValueError unless decoding takes this noise mode and seed."""
    if noise not in ("seeded", "off"):
        raise ValueError(f"noise must be 'seeded' or 'off', not {noise!r}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must fit 64 bits, not {seed}")


def _listed(kinds: set[Kind]) -> str:
    return " and ".join(sorted(kinds))
