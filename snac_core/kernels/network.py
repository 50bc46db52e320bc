"""The network in channels-last layout, the fastest on a CPU and on a GPU.

The layers are those of `snac_core.model.layers`, with their weights copied into the order that
matrix products read. A signal of ``C`` channels is Tensor[B x T x C]: every change of rate and
every point-wise convolution is then one matrix product, and a residual unit one pass through
memory. A CPU computes one window at a time, a GPU batches, whose items may have gaps between them
in memory. Layers without a channels-last form, such as attention, run channels-first. Streams use
`snac_core.streaming.channels_last`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_core.kernels import packing
from snac_core.kernels.interface import KernelBackend, Workspace
from snac_core.kernels.packing import PackedWeights, changes_rate
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.layers import (
    Chain,
    DecoderBlock,
    EncoderBlock,
    NoiseBlock,
    ResidualUnit,
    Snake1d,
)

Layer: TypeAlias = Callable[[Tensor, BatchContext, Workspace], Tensor]


class ChannelsLastNetwork:
    """A folded `SNAC` in channels-last layout. Any threads may use it at once.

    Parameters
    ----------
    model
        What it computes. It copies the convolutions' weights and shares the rest.
    kernels
        The backend of the operations beyond matrix multiplication.
    on_layer
        Called before each layer; other work may preempt this there.
    decoding
        The type of the signals, and of what is multiplied, in decoding; encoding is float32.

    Attributes
    ----------
    weights
        The packed weights in float32, shared with streams.
    layers
        The layers of ``encode`` and ``decode``, without the quantizer.
    """

    def __init__(
        self,
        model: SNAC,
        kernels: KernelBackend,
        on_layer: Callable[[], None],
        decoding: torch.dtype = torch.float32,
    ) -> None:
        self.config, self._quantizer = model.config, model.quantizer
        self.kernels, self.weights, self.on_layer = kernels, PackedWeights(), on_layer
        self._decoding = decoding
        # One for each run that is under way: a run may be started in the middle of another.
        self._workspaces: dict[torch.dtype, list[Workspace]] = defaultdict(list)
        own = self.weights if decoding == torch.float32 else PackedWeights(decoding)
        self.layers: dict[str, list[Layer]] = {
            "encode": list(self._layers(model.encoder.block, self.weights)),
            "decode": list(self._layers(model.decoder.model, own)),
        }

    def encode(self, audio: Tensor, context: BatchContext | None = None) -> list[Tensor]:
        """Return what `SNAC.encode` does, for ``audio``, Tensor[B x 1 x T]."""
        latent = self._run(self.layers["encode"], audio, context or BatchContext(audio.shape[-1]))
        return self._quantizer.encode(latent)

    def decode(self, codes: list[Tensor], context: BatchContext | None = None) -> Tensor:
        """Return what `SNAC.decode` does, under autocast where decoding is not float32."""
        latent = self._quantizer.decode(codes)
        context = context or BatchContext(latent.shape[-1] * self.config.hop)
        half = self._decoding != torch.float32
        with torch.autocast(latent.device.type, self._decoding if half else None, enabled=half):
            return self._run(self.layers["decode"], latent.to(self._decoding), context)

    def _run(self, layers: list[Layer], x: Tensor, context: BatchContext) -> Tensor:
        if self.kernels.batches:
            if context.lengths is None:
                every = x.new_full((len(x),), context.samples, dtype=torch.int64)
                context = dataclasses.replace(context, lengths=every)
        elif len(x) != 1 or context.lengths is not None:
            raise ValueError(
                f"the kernels of a CPU take one whole clip, not a padded batch of {len(x)}"
            )
        with self.workspace(x.dtype) as workspace:
            x = _channels_last(x)
            for layer in layers:
                self.on_layer()
                x = layer(x, context, workspace)
            # The workspace may be reused from here on.
            return _channels_first(x.clone())

    @contextlib.contextmanager
    def workspace(self, dtype: torch.dtype = torch.float32) -> Iterator[Workspace]:
        """Lend memory for one run."""
        try:
            workspace = self._workspaces[dtype].pop()
        except IndexError:
            workspace = self.kernels.workspace(dtype)
        try:
            yield workspace
        finally:
            self._workspaces[dtype].append(workspace)

    def _layers(self, chain: Chain, weights: PackedWeights) -> Iterator[Layer]:
        kernels, modules = self.kernels, list(chain)
        for index, module in enumerate(modules):
            before = modules[index - 1] if index else None
            if isinstance(module, (EncoderBlock, DecoderBlock)):
                yield from self._layers(module.block, weights)
            elif isinstance(module, ResidualUnit):
                own = packing.depthwise(module)
                yield Unit(module, kernels, weights) if own else ChannelsFirst(module)
            elif isinstance(module, NoiseBlock):
                yield Noisy(module, kernels, weights)
            elif isinstance(module, Snake1d):
                if not changes_rate(modules[index + 1]):
                    yield Activation(module, kernels, weights)
            elif isinstance(module, nn.ConvTranspose1d) and isinstance(before, Snake1d):
                yield Upsampling(before, module, kernels, weights)
            elif not isinstance(module, nn.Conv1d):
                yield ChannelsFirst(module)
            elif changes_rate(module) and isinstance(before, Snake1d):
                yield Downsampling(before, module, kernels, weights)
            elif module.in_channels == 1:
                yield FromOneChannel(module, weights)
            elif module.out_channels == 1:
                yield ToOneChannel(module, weights)
            else:
                yield ChannelsFirst(module)


def _channels_last(x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous()


def _channels_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


class ChannelsFirst:
    """A module without a channels-last form."""

    def __init__(self, module: nn.Module) -> None:
        # A chain of its own, as that says what must be masked.
        self._alone = Chain(module)

    def __call__(self, x: Tensor, context: BatchContext, workspace: Workspace) -> Tensor:
        """Apply the module, channels first."""
        return _channels_last(self._alone(_channels_first(x), context).to(x.dtype))


class Activation:
    """`Snake1d` by itself."""

    def __init__(self, module: Snake1d, kernels: KernelBackend, weights: PackedWeights) -> None:
        self._snake, self._kernels = weights.of(module, packing.snake), kernels

    def __call__(self, x: Tensor, context: BatchContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x C]."""
        return self._kernels.snake(x, self._snake, context, workspace)


class Unit:
    """A depth-wise `ResidualUnit`."""

    def __init__(
        self, module: ResidualUnit, kernels: KernelBackend, weights: PackedWeights
    ) -> None:
        self._weights, self._kernels = weights.of(module, packing.unit), kernels

    def __call__(self, x: Tensor, context: BatchContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x C]."""
        return self._kernels.unit(x, self._weights, context, workspace)


class Downsampling:
    """An activation and a convolution whose kernel is twice its stride.

    An output reads two blocks of ``stride`` positions, the second of which is the first of
    the next output: two products, without a copy of anything.
    """

    def __init__(
        self, snake: Snake1d, conv: nn.Conv1d, kernels: KernelBackend, weights: PackedWeights
    ) -> None:
        self._kernels, self._snake = kernels, weights.of(snake, packing.snake)
        self._stride, self._padding = conv.stride[0], int(conv.padding[0])
        self._weights = weights.of(conv, packing.downsampling)

    def __call__(self, x: Tensor, context: BatchContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T/stride x 2C]."""
        (batch, length, _), stride, padding = x.shape, self._stride, self._padding
        count = (length + 2 * padding) // stride - 1
        after = (count + 1) * stride - padding - length
        active = self._kernels.snake(x, self._snake, context, workspace, padding, after)
        early, late, bias = self._weights
        blocks = active.view(batch * (count + 1), -1)
        out = workspace.empty(len(blocks), len(bias))
        # All items at once, and so a row too much between each and the next.
        torch.addmm(bias, blocks[:-1], early, out=out[:-1]).addmm_(blocks[1:], late)
        return out.view(batch, count + 1, -1)[:, :-1]


class Upsampling:
    """An activation and a transposed convolution whose kernel is twice its stride.

    An input gives two blocks of ``stride`` outputs, the second of which adds to the first of the
    next input. The first block begins before the first output, by the padding.
    """

    def __init__(
        self, snake: Snake1d, up: nn.ConvTranspose1d, kernels: KernelBackend, weights: PackedWeights
    ) -> None:
        self._kernels, self._snake = kernels, weights.of(snake, packing.snake)
        self._stride, self._padding = up.stride[0], int(up.padding[0])
        self._width = up.out_channels
        self._weights = weights.of(up, packing.upsampling)

    def __call__(self, x: Tensor, context: BatchContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T*stride x C/2]."""
        batch, length, _ = x.shape
        # The row of zeros is where an item's last late block goes, and adds none to the next.
        active = self._kernels.snake(x, self._snake, context, workspace, after=1).flatten(0, 1)
        early, late, bias = self._weights
        blocks = workspace.empty(len(active), len(bias))
        torch.addmm(bias, active, early, out=blocks)
        blocks[1:].addmm_(active[:-1], late)
        out = blocks.view(batch, -1, self._width)
        return out[:, self._padding :][:, : length * self._stride]


class Noisy:
    """`NoiseBlock`."""

    def __init__(self, module: NoiseBlock, kernels: KernelBackend, weights: PackedWeights) -> None:
        self._index, self._kernels = module.index, kernels
        self._mix, _ = weights.of(module.linear, packing.mix)

    def __call__(self, x: Tensor, context: BatchContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x C]."""
        noise = self._kernels.normal(x, self._index, context)
        return x if noise is None else self._kernels.noisy(x, noise, self._mix, workspace)


class FromOneChannel:
    """A convolution of a single channel."""

    def __init__(self, conv: nn.Conv1d, weights: PackedWeights) -> None:
        self._padding, self._reach = int(conv.padding[0]), conv.kernel_size[0]
        self._taps, self._bias = weights.of(conv, packing.from_one_channel)

    def __call__(self, x: Tensor, context: BatchContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x C] of Tensor[B x T x 1]."""
        own = context.mask(_channels_first(x))[:, 0]
        read = F.pad(own, (self._padding, self._padding)).unfold(1, self._reach, 1)
        out = workspace.empty(own.numel(), len(self._bias))
        torch.addmm(self._bias, read.flatten(0, 1), self._taps, out=out)
        return out.view(*own.shape, -1)


class ToOneChannel:
    """A convolution to a single channel: what each tap gives, then their sum along time."""

    def __init__(self, conv: nn.Conv1d, weights: PackedWeights) -> None:
        self._padding = int(conv.padding[0])
        self._taps, self._bias = weights.of(conv, packing.to_one_channel)

    def __call__(self, x: Tensor, context: BatchContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x 1] of Tensor[B x T x C]."""
        batch, length, _ = x.shape
        given = torch.mm(self._taps.t(), x.flatten(0, 1).t()).view(-1, batch, length)
        given = F.pad(given, (self._padding, self._padding))
        out = given[0, :, :length] + self._bias
        for tap in range(1, len(given)):
            out += given[tap, :, tap : tap + length]
        return out[:, :, None]
