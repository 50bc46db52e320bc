"""The streaming network in channels-last layout, the fastest on a CPU.

`snac_core.streaming.layers` defines the timing and the state of each layer of a stream, and
`snac_core.kernels.network` the channels-last computation of a whole clip. This module combines
them: each streaming layer, with the packed weights and kernels of the network. The state has the
same numbers in the same slices, in another order within a slice.

A signal is Tensor[B x T x C], the rows of one stream below those of another. A product takes them
all at once, so that weights are read once for all streams: those of the coarse layers are many
megabytes, and meet a few rows of each stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from snac_core.kernels import network as whole_clips
from snac_core.kernels import packing
from snac_core.kernels.cpu import CpuBackend, CpuKernels
from snac_core.kernels.interface import UnitState, Workspace
from snac_core.kernels.network import ChannelsLastNetwork
from snac_core.model.layers import Snake1d
from snac_core.streaming import layers
from snac_core.streaming.layers import StreamingNetwork
from snac_core.streaming.state import LayerTiming, StateSlice, StreamContext

Layer: TypeAlias = Callable[[Tensor, StreamContext, Workspace], Tensor]


class ChannelsLastStreaming:
    """A `StreamingNetwork` on the CPU. Any threads may use it at once.

    Parameters
    ----------
    streaming
        What it computes, with memory of the same size.
    network
        Of the same model: whose weights and kernels it shares.
    """

    def __init__(self, streaming: StreamingNetwork, network: ChannelsLastNetwork) -> None:
        self._network = network
        self._layers = [_form(layer, network) for layer in streaming.layers]

    def run(self, x: Tensor, context: StreamContext) -> Tensor:
        """Return what `StreamingNetwork.run` does, for Tensor[B x C x T] of float32."""
        with self._network.workspace() as workspace:
            x = x.transpose(1, 2).contiguous()
            for layer in self._layers:
                self._network.on_layer()
                x = layer(x, context, workspace)
            # The workspace may be reused from here on.
            return x.clone().transpose(1, 2)


def _form(layer: layers.Layer, network: ChannelsLastNetwork) -> Layer:
    if isinstance(layer, layers.Residual) and packing.depthwise(layer.module):
        return Unit(layer, network)
    if isinstance(layer, layers.Noisy):
        return Noisy(layer, network)
    if isinstance(layer, layers.Upsampling):
        return Upsampling(layer, network)
    if isinstance(layer, layers.Pointwise) and isinstance(layer.module, Snake1d):
        return Activation(layer.module, network)
    if isinstance(layer, layers.Pointwise) and isinstance(layer.module, nn.Conv1d):
        return Mix(layer.module, network)
    if isinstance(layer, layers.Convolution):
        if packing.changes_rate(layer.module):
            return Downsampling(layer, network)
        if layer.module.in_channels == 1:
            return FromOneChannel(layer, network)
        if layer.module.out_channels == 1:
            return ToOneChannel(layer, network)
    return ChannelsFirst(layer)


def _compiled(network: ChannelsLastNetwork) -> CpuKernels:
    if not isinstance(network.kernels, CpuBackend):
        raise ValueError("channels-last streams are for a CPU")
    return network.kernels.compiled


def _mask(x: Tensor, context: StreamContext, timing: LayerTiming) -> Tensor:
    """Zero what lies outside each clip."""
    if not context.edges:
        return x
    return torch.where(context.inside(x.shape[1], timing)[:, :, None], x, torch.zeros(()))


def _past(context: StreamContext, state: StateSlice) -> Tensor:
    """Return what a layer remembers, Tensor[B x positions x channels]."""
    kept = context.before[:, state.start : state.start + state.size]
    return kept.view(-1, state.positions, state.channels)


def _keep(context: StreamContext, state: StateSlice, x: Tensor) -> None:
    """Remember ``x``, Tensor[B x positions x channels]."""
    context.after[:, state.start : state.start + state.size] = x.flatten(1)


def _exchange(context: StreamContext, state: StateSlice, x: Tensor) -> Tensor:
    """Return what came before ``x``, and remember as much of the newest."""
    past, count = _past(context, state), state.positions
    _keep(context, state, torch.cat((past, x[:, -count:]), dim=1)[:, -count:])
    return past


class ChannelsFirst:
    """A layer without a channels-last form."""

    def __init__(self, layer: layers.Layer) -> None:
        self._layer = layer

    def __call__(self, x: Tensor, context: StreamContext, workspace: Workspace) -> Tensor:
        """Run the layer, channels first."""
        return self._layer.run(x.transpose(1, 2), context).transpose(1, 2).contiguous()


class Activation:
    """`Snake1d`."""

    def __init__(self, module: Snake1d, network: ChannelsLastNetwork) -> None:
        self._kernels = _compiled(network)
        self._snake = network.weights.of(module, packing.snake)

    def __call__(self, x: Tensor, context: StreamContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x C]."""
        return self._kernels.snake(x.flatten(0, 1), self._snake, workspace).view(x.shape)


class Mix:
    """A convolution that does not mix time."""

    def __init__(self, module: nn.Conv1d, network: ChannelsLastNetwork) -> None:
        self._weights = network.weights.of(module, packing.mix)

    def __call__(self, x: Tensor, context: StreamContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x C out]."""
        taps, bias = self._weights
        out = workspace.empty(x.shape[0] * x.shape[1], len(bias))
        return torch.addmm(bias, x.flatten(0, 1), taps, out=out).view(*x.shape[:2], -1)


class Noisy:
    """`NoiseBlock`."""

    def __init__(self, layer: layers.Noisy, network: ChannelsLastNetwork) -> None:
        self._timing = layer.timing
        self._noisy = whole_clips.Noisy(layer.module, network.kernels, network.weights)

    def __call__(self, x: Tensor, context: StreamContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x C]."""
        return self._noisy(x, context.batch_context(x.transpose(1, 2), self._timing), workspace)


class Unit:
    """A depth-wise `ResidualUnit`."""

    def __init__(self, layer: layers.Residual, network: ChannelsLastNetwork) -> None:
        self._kernels = _compiled(network)
        self._weights = network.weights.of(layer.module, packing.unit)
        (wide,) = (part for part in layer.layers if isinstance(part, layers.Convolution))
        self._timing, self._active, self._skip = wide.timing, wide.state, layer.skip.state

    def __call__(self, x: Tensor, context: StreamContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x C]."""
        state = UnitState(context.before, context.after, self._active.start, self._skip.start)
        # The activation of zero is zero.
        x = _mask(x, context, self._timing)
        return self._kernels.streaming_unit(x, self._weights, state, workspace)


class Downsampling:
    """A convolution whose kernel is twice its stride."""

    def __init__(self, layer: layers.Convolution, network: ChannelsLastNetwork) -> None:
        self._timing, self._state = layer.timing, layer.state
        self._stride = layer.module.stride[0]
        self._weights = network.weights.of(layer.module, packing.downsampling)

    def __call__(self, x: Tensor, context: StreamContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T/stride x 2C]."""
        batch, length, channels = x.shape
        kept = self._state.positions
        whole = workspace.empty(batch * (length + self._stride), channels).view(batch, -1, channels)
        x = _mask(x, context, self._timing)
        whole[:, :kept] = _exchange(context, self._state, x)
        # What is left out, less than a block, is for the next call alone.
        whole[:, kept:] = x[:, : length + self._stride - kept]
        blocks = whole.view(-1, self._stride * channels)
        early, late, bias = self._weights
        out = workspace.empty(len(blocks), len(bias))
        # All streams at once, and so a row too much between each and the next.
        torch.addmm(bias, blocks[:-1], early, out=out[:-1]).addmm_(blocks[1:], late)
        return out.view(batch, -1, len(bias))[:, :-1].contiguous()


class Upsampling:
    """A transposed convolution whose kernel is twice its stride."""

    def __init__(self, layer: layers.Upsampling, network: ChannelsLastNetwork) -> None:
        self._timing, self._state = layer.timing, layer.state
        self._weights = network.weights.of(layer.module, packing.upsampling)

    def __call__(self, x: Tensor, context: StreamContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T*stride x C/2]."""
        batch, length, _ = x.shape
        early, late, bias = self._weights
        active = _mask(x, context, self._timing).flatten(0, 1)
        blocks = workspace.empty(batch * length + 1, len(bias))
        torch.addmm(bias, active, late, out=blocks[1:])
        # What a stream's last input adds to its next output came to lie in the next stream's
        # first, where what that stream remembers belongs.
        own_bias = bias.view(self._state.positions, -1)
        _keep(context, self._state, blocks[length::length].view(batch, *own_bias.shape) - own_bias)
        blocks[:-1:length] = (_past(context, self._state) + own_bias).flatten(1)
        out = blocks[:-1].addmm_(active, early)
        return out.view(batch, -1, self._state.channels)


class FromOneChannel:
    """A convolution of a single channel."""

    def __init__(self, layer: layers.Convolution, network: ChannelsLastNetwork) -> None:
        self._timing, self._state = layer.timing, layer.state
        self._taps, self._bias = network.weights.of(layer.module, packing.from_one_channel)

    def __call__(self, x: Tensor, context: StreamContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x C] of Tensor[B x T x 1]."""
        x = _mask(x, context, self._timing)
        whole = torch.cat((_exchange(context, self._state, x), x), dim=1)[:, :, 0]
        read = whole.unfold(1, len(self._taps), 1).flatten(0, 1)
        out = workspace.empty(len(read), len(self._bias))
        return torch.addmm(self._bias, read, self._taps, out=out).view(*x.shape[:2], -1)


class ToOneChannel:
    """A convolution to a single channel: what each tap gives, then their sum along time."""

    def __init__(self, layer: layers.Convolution, network: ChannelsLastNetwork) -> None:
        self._timing, self._state = layer.timing, layer.state
        self._taps, self._bias = network.weights.of(layer.module, packing.to_one_channel)

    def __call__(self, x: Tensor, context: StreamContext, workspace: Workspace) -> Tensor:
        """Return Tensor[B x T x 1] of Tensor[B x T x C]."""
        length, x = x.shape[1], _mask(x, context, self._timing)
        past = _exchange(context, self._state, x)
        whole = torch.cat((past @ self._taps, x @ self._taps), dim=1)
        given = whole.permute(2, 0, 1).contiguous()
        out = given[0, :, :length] + self._bias
        for tap in range(1, len(given)):
            out += given[tap, :, tap : tap + length]
        return out[:, :, None]
