"""The ways in which a GPU may compute the network, and what each of them moves."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measuring import CONFIG, in_turns
from streaming import run_steps, streams_with_input
from torch import Tensor

from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.kernels.cuda_graphs import Capture, CudaCapture, GraphedNetwork
from snac_core.kernels.gpu import TritonBackend
from snac_core.kernels.network import ChannelsLastNetwork
from snac_core.model import SNAC
from snac_core.store.weights import build
from snac_core.types import Compile

LAYERS, ROWS = "layers as written", "rows and Triton"
INSIDE = "rows and Triton, narrow products inside"
GRAPH = ", in a graph"
COMPILED = "layers, torch.compile"
# Channels of a residual unit that still multiplies by itself.
NARROW = 128


@dataclasses.dataclass(frozen=True)
class Stage:
    """Where it all runs: a GPU, or a CPU to see that it would.

    Parameters
    ----------
    device
        ``cuda`` or ``cpu``.
    config
        Shape of the model.
    """

    device: torch.device
    config: SnacConfig

    @classmethod
    def rehearsal(cls) -> Stage:
        """Return a stage without a GPU, for a model of the same geometry that is narrow."""
        narrow = dataclasses.replace(CONFIG, encoder_dim=8, decoder_dim=32)
        return cls(torch.device("cpu"), narrow)

    @property
    def real(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    def codec(self, source: Any, compile: Compile, precision: str = "fp32") -> Codec:
        """Return a codec with the weights of the published package's model ``source``."""
        return Codec(
            build(self.config, source.state_dict()),
            version="random",
            token_space="random",
            device=self.device,
            precision=precision,  # type: ignore[arg-type]
            compile=compile,
        )

    def finished(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """Return ``run``, until the GPU has done what it queued."""

        def whole() -> Any:
            made = run()
            if self.real:
                torch.cuda.synchronize()
            return made

        return whole

    def kernels(self, whole: int = 0) -> TritonBackend:
        """Return kernels, in blocks that suit what runs them."""
        if self.real:
            return TritonBackend(self.device, whole)
        # The interpreter multiplies nothing in bfloat16.
        return TritonBackend(self.device, tile=8192, steps=8)

    def capture(self) -> Capture:
        """Return what captures."""
        return CudaCapture(self.device) if self.real else _again


def _again(run: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    return lambda: None, run()


Network = SNAC | ChannelsLastNetwork | GraphedNetwork


def networks(stage: Stage, model: SNAC, decoding: torch.dtype) -> dict[str, Network]:
    """Return each way to run a folded model, by its name."""
    rows = ChannelsLastNetwork(model, stage.kernels(), lambda: None, decoding)
    made: dict[str, Network] = {LAYERS: model, ROWS: rows}
    if decoding != torch.float32:
        made[INSIDE] = ChannelsLastNetwork(model, stage.kernels(NARROW), lambda: None, decoding)
    for name, network in list(made.items()):
        assert not isinstance(network, GraphedNetwork)
        made[name + GRAPH] = GraphedNetwork(network, stage.capture(), seconds=math.inf)
    return made


def rates(stage: Stage) -> dict[torch.dtype | str, float]:
    """Return what the GPU reaches: GFLOP/s of a large product by type, GB/s of a large copy."""
    side, size = (8192, 2**28) if stage.real else (256, 2**16)
    big = torch.empty(size, device=stage.device)
    other, runs = torch.empty_like(big), {}
    runs["copy"] = stage.finished(lambda: other.copy_(big))
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(side, side, device=stage.device, dtype=dtype)
        runs[str(dtype)] = stage.finished(functools.partial(torch.mm, a, a))
    times = in_turns(runs, 5)
    found: dict[torch.dtype | str, float] = {"copy": 8 * size / min(times["copy"]) / 1e9}
    for dtype in (torch.float32, torch.bfloat16):
        found[dtype] = 2 * side**3 / min(times[str(dtype)]) / 1e9
    return found


def traffic(config: SnacConfig, kind: str, size: int) -> float:
    """Return the bytes that `ROWS` moves for a second of audio, with elements of ``size`` bytes.

    A residual unit reads its input, writes what is mixed and what that adds to, and the product
    reads both and writes their sum; a change of rate has an activation and two products.
    """
    units, change, sums, total = 3 * 6, 2 + 2, 3, 0.0
    rate, channels = float(config.sampling_rate), config.encoder_dim
    if kind == "encode":
        total += rate * channels
        for stride in config.encoder_rates:
            total += rate * channels * (units + change)
            rate, channels = rate / stride, 2 * channels
            total += rate * channels * sums
    else:
        rate, channels = rate / config.hop, config.decoder_dim
        for stride in config.decoder_rates:
            total += rate * channels * change
            rate, channels = rate * stride, channels // 2
            # Noise: a product, and a sum of three.
            total += rate * channels * (sums + units + (2 + 3 if config.noise else 0))
        total += rate * channels * 3
    return total * size


def streams(codec: Codec, kind: str, count: int, steps: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of the seconds of a step of ``count`` streams."""
    many = streams_with_input(codec, kind, count, 4 + steps)
    run_steps(codec, many, 4)
    taken = []
    for _ in range(steps):
        started = time.perf_counter()
        run_steps(codec, many, 1)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken)), float(np.quantile(taken, 0.99))
