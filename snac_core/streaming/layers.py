"""Streaming layers: the network computed a few positions at a time, each layer with its state.

A layer with lookahead cannot compute the newest position it was given, so its output is delayed by
the right half of its kernel, and the delays add up along the network. What a layer needs of the
past is kept between calls in a state of fixed size: streams at any position can share a batch, and
nothing is computed twice.

The layers are those of `snac_core.model.layers`, and share their weights. What lies before a clip's
start or past its end is zero before every layer that mixes time, as `BatchContext.mask` has it for
whole clips.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_core.model.attention import LocalMHA
from snac_core.model.layers import (
    Chain,
    DecoderBlock,
    EncoderBlock,
    NoiseBlock,
    ResidualUnit,
    Snake1d,
)
from snac_core.streaming.state import LayerTiming, StateSlice, StreamContext


class Layer(ABC):
    """One layer of a streaming network."""

    @abstractmethod
    def run(self, x: Tensor, context: StreamContext) -> Tensor:
        """Return the layer's delayed output for its next input, Tensor[B x C x T]."""


@dataclasses.dataclass(frozen=True)
class Pointwise(Layer):
    """A module that does not mix time, or only within what one call brings."""

    module: nn.Module

    def run(self, x: Tensor, context: StreamContext) -> Tensor:
        """Apply the module."""
        return self.module(x)  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class Noisy(Layer):
    """A noise block, which must know where in the clip it is."""

    module: NoiseBlock
    timing: LayerTiming

    def run(self, x: Tensor, context: StreamContext) -> Tensor:
        """Add the noise of these positions."""
        return self.module(x, context.batch_context(x, self.timing))  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class Delay(Layer):
    """Delays its input by some positions."""

    state: StateSlice

    def run(self, x: Tensor, context: StreamContext) -> Tensor:
        """Return as many positions as came in."""
        return context.joined(self.state, x)[..., : x.shape[-1]]


@dataclasses.dataclass(frozen=True)
class Convolution(Layer):
    """A convolution of stride 1 or more, over its input and what it kept of the last."""

    module: nn.Conv1d
    timing: LayerTiming
    state: StateSlice

    def run(self, x: Tensor, context: StreamContext) -> Tensor:
        """Convolve without padding: the kernel fits as often as positions are due."""
        conv, whole = self.module, context.joined(self.state, context.mask(x, self.timing))
        return F.conv1d(whole, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


@dataclasses.dataclass(frozen=True)
class Upsampling(Layer):
    """A transposed convolution whose kernel is twice its stride: each input spans two outputs.

    One matrix product gives every input's span; the second half of the last one waits for
    the first half of the next.
    """

    module: nn.ConvTranspose1d
    timing: LayerTiming
    state: StateSlice

    def run(self, x: Tensor, context: StreamContext) -> Tensor:
        """Return Tensor[B x C/2 x T*stride]."""
        up, x = self.module, context.mask(x, self.timing)
        batch, inputs, length = x.shape
        # All streams in one product, so that the weights are read once.
        spans = x.transpose(1, 2).reshape(-1, inputs) @ up.weight.reshape(inputs, -1)
        spans = spans.reshape(batch, length, up.out_channels, 2, up.stride[0])
        early, late = spans.permute(3, 0, 2, 1, 4)
        late = torch.cat((context.past(self.state)[:, :, None], late), dim=2)
        context.keep(self.state, late[:, :, -1])
        out = (early + late[:, :, :-1]).reshape(batch, up.out_channels, -1)
        return out if up.bias is None else torch.add(out, up.bias[:, None])


@dataclasses.dataclass(frozen=True)
class Residual(Layer):
    """Layers around which their input passes unchanged, as late as they are."""

    module: ResidualUnit
    layers: tuple[Layer, ...]
    skip: Delay

    def run(self, x: Tensor, context: StreamContext) -> Tensor:
        """Return Tensor[B x C x T]."""
        return torch.add(self.skip.run(x, context), run_all(self.layers, x, context))


def run_all(layers: Iterable[Layer], x: Tensor, context: StreamContext) -> Tensor:
    """Apply ``layers`` in turn."""
    for layer in layers:
        x = layer.run(x, context)
    return x


class StreamingNetwork:
    """A `Chain` with a state, whose output is delayed by its lookahead.

    Parameters
    ----------
    chain
        The layers of an encoder or a decoder.
    channels
        Of its input.
    unit
        Samples per position of its input.
    align
        The output's delay is rounded up to a multiple of this many positions.

    Attributes
    ----------
    state_size
        Numbers that one stream remembers between calls.
    delay
        Samples by which the output is delayed.
    """

    def __init__(self, chain: Chain, channels: int, unit: int, align: int = 1) -> None:
        self.state_size = 0
        self._channels, self._timing = channels, LayerTiming(unit, 0)
        layers = self._chain(chain)
        self.layers = (*layers, *self._aligned(align))
        self.delay = self._timing.delay * self._timing.unit

    def run(self, x: Tensor, context: StreamContext) -> Tensor:
        """Return the output, delayed by `delay`, for the next input, Tensor[B x C x T].

        ``T`` is the same number of samples for every stream: whole positions at every
        resolution, and whole attention windows.
        """
        return run_all(self.layers, x, context)

    def _chain(self, chain: Chain) -> tuple[Layer, ...]:
        return tuple(layer for module in chain for layer in self._module(module))

    def _module(self, module: nn.Module) -> tuple[Layer, ...]:
        if isinstance(module, nn.ConvTranspose1d):
            return (self._upsampling(module),)
        if isinstance(module, nn.Conv1d):
            return (self._convolution(module),)
        if isinstance(module, (EncoderBlock, DecoderBlock)):
            return self._chain(module.block)
        if isinstance(module, ResidualUnit):
            return (self._residual(module),)
        if isinstance(module, NoiseBlock):
            return (Noisy(module, self._timing),)
        if isinstance(module, LocalMHA):
            return (*self._aligned(module.window_size), Pointwise(module))
        if isinstance(module, (Snake1d, nn.Tanh)):
            return (Pointwise(module),)
        raise TypeError(f"{type(module).__name__} has no streaming form")

    def _convolution(self, conv: nn.Conv1d) -> Layer:
        timing, (stride,) = self._timing, conv.stride
        padding, reach = int(conv.padding[0]), conv.dilation[0] * (conv.kernel_size[0] - 1)
        # Output q reads the inputs from q*stride - padding, `reach` further. The last output
        # of a call must not read past the call's last input, which sets the delay; the first
        # one's oldest input sets how many to keep.
        delay = math.ceil((timing.delay + reach - padding - stride + 1) / stride)
        kept = delay * stride + padding - timing.delay
        state = self._state(conv.in_channels, kept)
        self._timing = LayerTiming(timing.unit * stride, delay)
        self._channels = conv.out_channels
        if not kept:
            return Pointwise(conv)
        return Convolution(conv, timing, state)

    def _upsampling(self, up: nn.ConvTranspose1d) -> Layer:
        timing, (stride,) = self._timing, up.stride
        if up.kernel_size[0] != 2 * stride or up.groups != 1 or up.dilation[0] != 1:
            raise TypeError(f"{up} has no streaming form: its kernel is not twice its stride")
        state = self._state(up.out_channels, stride)
        # Input i reaches the outputs from i*stride - padding on.
        self._timing = LayerTiming(
            timing.unit // stride, timing.delay * stride + int(up.padding[0])
        )
        self._channels = up.out_channels
        return Upsampling(up, timing, state)

    def _residual(self, unit: ResidualUnit) -> Layer:
        channels, before = self._channels, self._timing.delay
        layers = self._chain(unit.block)
        return Residual(unit, layers, Delay(self._state(channels, self._timing.delay - before)))

    def _aligned(self, multiple: int) -> tuple[Layer, ...]:
        missing = -self._timing.delay % multiple
        if not missing:
            return ()
        self._timing = LayerTiming(self._timing.unit, self._timing.delay + missing)
        return (Delay(self._state(self._channels, missing)),)

    def _state(self, channels: int, positions: int) -> StateSlice:
        state = StateSlice(self.state_size, channels, positions)
        self.state_size += state.size
        return state
