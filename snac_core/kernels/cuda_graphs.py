"""CUDA-graph capture and replay of a network.

A batch launches some hundred kernels, which takes longer than computing a short clip. A CUDA graph
is one launch, of fixed shapes at fixed addresses. So batches are padded to few shapes, inputs
(lengths included) are copied to where the graph reads them, and results from where it writes them.
A batch that takes longer to compute than to launch gains nothing, and runs without a graph or
padding.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from snac_core.errors import KernelsError
from snac_core.kernels.network import ChannelsLastNetwork
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise

Key: TypeAlias = tuple[str, int, int]
Capture: TypeAlias = Callable[[Callable[[], list[Tensor]]], tuple[Callable[[], None], list[Tensor]]]
"""Turns a computation into its replay, and the tensors that the replay writes."""

_MOST = 16
# At ten thousand times real time, to compute this much takes longer than to launch it.
_SECONDS = 24.0
# CUDA has one capture in a process at a time, and several models may be in use.
_capturing = threading.Lock()


class CudaCapture:
    """Captures in graphs that share their memory, as only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, run: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        """Return the replay of ``run``, which must have run before, and its results' place."""
        graph = torch.cuda.CUDAGraph()
        # What other threads ask of the GPU meanwhile, such as to load a model, is not captured.
        with (
            _capturing,
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            made = run()
        return graph.replay, made


class Captured(NamedTuple):
    """A computation of one shape."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    replay: Callable[[], None]


class GraphedNetwork:
    """A network on a GPU, for batches padded to few shapes. Any threads may use it at once.

    The first batch of a shape runs without a graph, which also compiles its kernels; the second is
    captured. A graph reads the weights of its network, so each model needs a network of its own,
    and several may be in use.

    Parameters
    ----------
    network
        The network to capture, channels-last or the model itself.
    capture
        How to capture: `CudaCapture`, except in tests.
    most
        Graphs to keep; the least recently used is dropped.
    seconds
        Batches of at least so much audio, padding included, run without a graph.

    Attributes
    ----------
    captures
        Graphs made so far.
    """

    def __init__(
        self,
        network: ChannelsLastNetwork | SNAC,
        capture: Capture,
        most: int = _MOST,
        seconds: float = _SECONDS,
    ) -> None:
        self.config, self._network = network.config, network
        self._capture, self._most, self.captures = capture, most, 0
        self._largest = seconds * self.config.sampling_rate
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._captured: OrderedDict[Key, Captured] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, audio: Tensor, context: BatchContext | None = None) -> list[Tensor]:
        """Return what `SNAC.encode` does, for ``audio``, Tensor[B x 1 x T]."""
        context = context or BatchContext(audio.shape[-1])
        batch, samples = self._shape(len(audio), context)
        if batch * samples >= self._largest:
            return self._network.encode(audio, context)

        def run(audio: Tensor, lengths: Tensor) -> list[Tensor]:
            return self._network.encode(audio, BatchContext(samples, lengths))

        inputs = [(audio, samples), (_lengths(audio, context), None)]
        return self._run(("encode", batch, samples), inputs, run, context)

    def decode(self, codes: list[Tensor], context: BatchContext | None = None) -> Tensor:
        """Return what `SNAC.decode` does; noise must be seeded or off."""
        own = codes[0].shape[1] * self.config.frame_samples // self.config.codes_per_frame[0]
        context = context or BatchContext(own)
        batch, samples = self._shape(len(codes[0]), context)
        if batch * samples >= self._largest:
            return self._network.decode(codes, context)
        noise = (
            (context.noise.seed, context.noise.start) if isinstance(context.noise, Noise) else ()
        )
        if not noise and context.noise != "off":
            raise ValueError(f"noise must be a Noise or 'off' here, not {context.noise!r}")

        def run(*given: Tensor) -> list[Tensor]:
            levels, (lengths, *seeded) = list(given[: len(codes)]), given[len(codes) :]
            source = Noise(*seeded) if seeded else "off"
            return [self._network.decode(levels, BatchContext(samples, lengths, source))]

        inputs: list[tuple[Tensor, int | None]] = [
            (level, level.shape[1] * samples // context.samples) for level in codes
        ]
        inputs += [(part, None) for part in (_lengths(codes[0], context), *noise)]
        kind = "decode with noise" if noise else "decode"
        return self._run((kind, batch, samples), inputs, run, context)[0]

    def _shape(self, batch: int, context: BatchContext) -> tuple[int, int]:
        unit = self.config.pad_multiple
        return rounded(batch), unit * rounded(-(-context.samples // unit))

    def _run(
        self,
        key: Key,
        given: Sequence[tuple[Tensor, int | None]],
        run: Callable[..., list[Tensor]],
        context: BatchContext,
    ) -> list[Tensor]:
        """Run on tensors that are padded to a batch, and in their last axis where that is named."""
        _, batch, samples = key
        with self._lock:
            held = self._captured.get(key)
            if held is None:
                inputs = [
                    part.new_zeros(batch, *part.shape[1:-1], *([] if last is None else [last]))
                    for part, last in given
                ]
            else:
                inputs = held.inputs
                self._captured.move_to_end(key)
            # Whatever lies beyond, left by others, no item of this batch reads.
            for place, (part, _) in zip(inputs, given, strict=True):
                place[tuple(slice(size) for size in part.shape)] = part
            if held is None and not self._again(key):
                outputs = run(*inputs)
            else:
                held = held or self._made(key, inputs, run)
                held.replay()
                outputs = held.outputs
            # The next batch writes to the same place.
            return [
                made[: len(given[0][0]), ..., : made.shape[-1] * context.samples // samples].clone()
                for made in outputs
            ]

    def _again(self, key: Key) -> bool:
        """Return whether a batch of this shape came before, and not too long ago."""
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > 4 * self._most:
            self._seen.popitem(last=False)
        return False

    def _made(self, key: Key, inputs: list[Tensor], run: Callable[..., list[Tensor]]) -> Captured:
        while len(self._captured) >= self._most:
            self._captured.popitem(last=False)
        replay, outputs = self._capture(lambda: run(*inputs))
        self._captured[key] = Captured(inputs, outputs, replay)
        self.captures += 1
        return self._captured[key]


def rounded(number: int) -> int:
    """Return the next of 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...: four for each power.

    >>> [rounded(number) for number in (3, 9, 33)]
    [3, 10, 40]
    """
    step: int = 2 ** max(0, (number - 1).bit_length() - 3)
    return -(-number // step) * step


def _lengths(like: Tensor, context: BatchContext) -> Tensor:
    if context.lengths is not None:
        return context.lengths
    return like.new_full((len(like),), context.samples, dtype=torch.int64)


def graphed(model: SNAC, device: torch.device, decoding: torch.dtype) -> GraphedNetwork:
    """Return the channels-last network of a folded model on a CUDA GPU, decoding in this type.

    Raises
    ------
    KernelsError
        Where Triton is not there, or products of float32 may be rounded, which changes codes.
    """
    try:
        from snac_core.kernels.gpu import TritonBackend
    except ImportError as error:
        raise KernelsError(
            f"no kernels for a GPU: {error}; Triton comes with torch's builds for CUDA"
        ) from error
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        raise KernelsError(
            "codes need products of float32 that are not rounded, torch's precision 'highest', "
            f"not {precision!r}"
        )
    rows = ChannelsLastNetwork(model, TritonBackend(device), lambda: None, decoding)
    return GraphedNetwork(rows, CudaCapture(device))
