"""Steps of streams as jobs of `Codec.run`: those of many streams are computed as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snac_core.inference.jobs import Job, Step
from snac_core.inference.networks import Networks
from snac_core.inference.windows import Window
from snac_core.model.noise import MaskedNoise, Noise
from snac_core.streaming.network import StreamNetwork, stream_network
from snac_core.types import Levels, Samples


class StreamJob(Job):
    """One step of one stream; ``stream`` and ``fed`` belong to the stream's own kind."""

    def __init__(self, stream: Any, start: int, fed: Any) -> None:
        stop = start + stream.config.pad_multiple
        super().__init__([Window(start, stop, start, stop)], stream.config.sampling_rate)
        self.stream, self.fed = stream, fed

    def take(self, window: Window, result: Any) -> None:
        """Hand what the step made to the stream."""
        self._left = 0
        self.stream.made(window, result)


def _stream_jobs(networks: Networks, steps: Sequence[Step]) -> list[StreamJob]:
    jobs = [step.job for step in steps if isinstance(step.job, StreamJob)]
    if any(job.stream.networks is not networks for job in jobs):
        raise ValueError("a stream's steps run on the codec that the stream was made for")
    if len({job.stream for job in jobs}) < len(jobs) or any(job.done for job in jobs):
        raise ValueError("a stream's steps run one after the other, each once")
    return jobs


class DecodeStep(StreamJob):
    """The codes of one step."""

    kind = "stream-decode"

    @classmethod
    @torch.inference_mode()
    def compute(cls, networks: Networks, steps: Sequence[Step]) -> list[Samples]:
        """Return the audio of each step, `lookahead` samples late, and what it guesses."""
        jobs = _stream_jobs(networks, steps)
        network = stream_network(networks, "decode")
        made: dict[StreamJob, Samples] = {}
        kept: list[tuple[Tensor, Tensor]] = []
        for speculative in {job.stream.speculative for job in jobs}:
            group = [job for job in jobs if job.stream.speculative == speculative]
            slots, after, audio = cls._batch(networks, network, group, speculative)
            made.update(zip(group, audio, strict=True))
            kept.append((slots, after))
        for slots, after in kept:
            network.pool.write(slots, after)
        return [made[job] for job in jobs]

    @staticmethod
    def _batch(
        networks: Networks, network: StreamNetwork, jobs: list[StreamJob], speculative: int
    ) -> tuple[Tensor, Tensor, Samples]:
        streams = [job.stream for job in jobs]
        windows = [job.windows[0] for job in jobs]
        slots = network.tensor([stream.slot for stream in streams])
        codes = [
            torch.from_numpy(np.stack(level)).to(networks.device, torch.int64)
            for level in zip(*(job.fed for job in jobs), strict=True)
        ]
        half = networks.precision == "bf16"
        with (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast(networks.device.type, torch.bfloat16, enabled=half),
        ):
            noise = _noise(network, streams)
            starts, stops = [w.start for w in windows], [w.stop for w in windows]
            ends = [stream.end for stream in streams]
            context = network.context(
                starts, ends, windows[0].samples, noise, network.pool.read(slots)
            )
            late = network.layers.run(networks.model.quantizer.decode(codes), context)
            if speculative:
                # As if the clip ended here; what the layers remember of that is dropped.
                peek = network.context(stops, stops, speculative, noise, context.after)
                nothing = late.new_zeros(
                    len(jobs), networks.config.latent_channels, speculative // networks.config.hop
                )
                late = torch.cat((late, network.layers.run(nothing, peek)), dim=-1)
            audio: Samples = late[:, 0].float().cpu().numpy()
        return slots, context.after, audio


def _noise(network: StreamNetwork, streams: Sequence[Any]) -> Noise | str:
    loud = [stream.noise == "seeded" for stream in streams]
    if not any(loud):
        return "off"
    seeds = network.tensor([stream.seed for stream in streams])
    # The layers know where they are; see `StreamContext.batch_context`.
    nowhere = torch.zeros_like(seeds)
    if all(loud):
        return Noise(seeds, nowhere)
    return MaskedNoise(seeds, nowhere, network.tensor(loud))


class EncodeStep(StreamJob):
    """The samples of one step."""

    kind = "stream-encode"

    @classmethod
    @torch.inference_mode()
    def compute(cls, networks: Networks, steps: Sequence[Step]) -> list[Levels]:
        """Return the codes of each step, `lookahead` samples late."""
        jobs = _stream_jobs(networks, steps)
        network = stream_network(networks, "encode")
        streams = [job.stream for job in jobs]
        windows = [job.windows[0] for job in jobs]
        slots = network.tensor([stream.slot for stream in streams])
        audio = torch.from_numpy(np.stack([job.fed for job in jobs])).to(networks.device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            context = network.context(
                [window.start for window in windows],
                [stream.end for stream in streams],
                windows[0].samples,
                "off",
                network.pool.read(slots),
            )
            latent = network.layers.run(audio[:, None], context)
            levels = networks.model.quantizer.encode(latent)
        codes = [level.to(torch.int32).cpu().numpy() for level in levels]
        network.pool.write(slots, context.after)
        return [tuple(level[i] for level in codes) for i in range(len(steps))]
