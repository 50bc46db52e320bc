"""The encoder and the decoder in training on a CPU: the same layers, computed channels-last.

A signal is Tensor[B x T x C]. A change of rate whose kernel is twice its stride is then two
products of matrices over views of the same memory, a point-wise convolution is one, and what
`snac_core.training_kernels` has for the rest passes each signal once. Values and gradients are
those of the layers as written, up to rounding; what there is no faster way for is computed as
written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snac_core.extent import Extent
from snac_core.layers import Chain, DecoderBlock, EncoderBlock, NoiseBlock, ResidualUnit, Snake1d
from snac_core.model import SNAC
from snac_core.training_kernels import TrainingKernels, UnitWeights


class ChannelsLast:
    """Encoder and decoder of a model that is trained.

    Parameters
    ----------
    model
        Whose weights are used, as they are at each call.
    kernels
        What computes residual units, activations and noise.
    """

    def __init__(self, model: SNAC, kernels: TrainingKernels) -> None:
        self.kernels = kernels
        self._encoder = list(_layers(model.encoder.block))
        self._decoder = list(_layers(model.decoder.model))

    def encoder(self, audio: Tensor, extent: Extent) -> Tensor:
        """Return what `snac_core.layers.Encoder` does."""
        return self._pass(self._encoder, audio, extent)

    def decoder(self, latent: Tensor, extent: Extent) -> Tensor:
        """Return what `snac_core.layers.Decoder` does."""
        return self._pass(self._decoder, latent, extent)

    def _pass(self, layers: list[nn.Module], x: Tensor, extent: Extent) -> Tensor:
        """Return Tensor[B x C x T] for ``x`` of the same form."""
        x = x.transpose(1, 2)
        snake: Snake1d | None = None
        for layer in layers:
            if isinstance(layer, Snake1d):
                # Computed by the convolution that follows it, with its padding.
                snake = layer
            elif isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)):
                x, snake = self._convolve(layer, snake, x, extent), None
            elif isinstance(layer, ResidualUnit):
                x = self._unit(layer, x, extent)
            elif isinstance(layer, NoiseBlock):
                noise = extent.normal(x.transpose(1, 2), layer.index)
                if noise is not None:
                    x = self.kernels.noise(x, noise[:, 0], layer.linear.weight[..., 0])
            else:
                x = layer(x.transpose(1, 2)).transpose(1, 2)
        return x.transpose(1, 2)

    def _unit(self, unit: ResidualUnit, x: Tensor, extent: Extent) -> Tensor:
        first, wide, second, mix = unit.block
        assert isinstance(wide, nn.Conv1d)
        if wide.groups != wide.in_channels:
            return unit(x.transpose(1, 2), extent).transpose(1, 2)  # type: ignore[no-any-return]
        weights = UnitWeights(
            *(first.alpha.flatten(), wide.weight[:, 0].t(), wide.bias),
            *(second.alpha.flatten(), mix.weight[..., 0], mix.bias),
        )
        return self.kernels.unit(x, _ends(extent, x), wide.dilation[0], weights)

    def _convolve(
        self, conv: nn.Conv1d | nn.ConvTranspose1d, snake: Snake1d | None, x: Tensor, extent: Extent
    ) -> Tensor:
        """Return a convolution of ``x``, or of its activation where there is a ``snake``."""
        stride, padding = conv.stride[0], int(conv.padding[0])
        if snake is not None:
            up = isinstance(conv, nn.ConvTranspose1d)
            around = (1, 1) if up else (padding, (stride if stride > 1 else 2 * padding) - padding)
            x = self.kernels.snake(x, snake.alpha.flatten(), _ends(extent, x), *around)
            if up:
                # [C in x C out x 2 stride]: its first half for a position, the other for the next.
                halves = conv.weight.permute(2, 1, 0).unflatten(0, (2, stride))
                return _Up.apply(x, halves.flatten(1, 2), conv.bias, padding)  # type: ignore
            if stride > 1:
                halves = conv.weight.permute(2, 1, 0).unflatten(0, (2, stride))
                return _Down.apply(x, halves.flatten(1, 2), conv.bias)  # type: ignore
            return _ToMono.apply(x, conv.weight[0].t(), conv.bias)  # type: ignore
        if conv.kernel_size[0] == 1:
            return F.linear(x, conv.weight[..., 0], conv.bias)
        x = extent.mask(x.transpose(1, 2))
        if conv.in_channels == 1:
            windows = F.pad(x[:, 0], (padding, padding)).unfold(1, conv.kernel_size[0], 1)
            return F.linear(windows.contiguous(), conv.weight[:, 0], conv.bias)
        return conv(x).transpose(1, 2)  # type: ignore[no-any-return]


class _Down(torch.autograd.Function):
    """A convolution with a kernel of two strides."""
    @staticmethod
    def forward(ctx: Any, x: Tensor, halves: Tensor, bias: Tensor) -> Tensor:
        # x: [B x (T + stride) x C], halves: [2 x stride C x C out].
        batch, inner = len(x), halves.shape[1]
        blocks, halves = x.view(batch, -1, inner), halves.contiguous()
        first, second = (half.expand(batch, -1, -1) for half in halves)
        out = torch.baddbmm(bias, blocks[:, :-1], first)
        ctx.save_for_backward(x, halves)
        return out.baddbmm_(blocks[:, 1:], second)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, halves = ctx.saved_tensors
        blocks = x.view(-1, halves.shape[1])
        # A row of zeros stands between items: all of them are one matrix.
        grads = F.pad(grad, (0, 0, 0, 1)).view(-1, grad.shape[2])
        grad_x = grads @ halves[0].t()
        grad_x[1:].addmm_(grads[:-1], halves[1].t())
        grad_halves = torch.stack([blocks.t() @ grads, blocks[1:].t() @ grads[:-1]])
        return grad_x.view(x.shape), grad_halves, grads.sum(0)


class _Up(torch.autograd.Function):
    """A transposed convolution with a kernel of two strides."""
    @staticmethod
    def forward(ctx: Any, x: Tensor, halves: Tensor, bias: Tensor, padding: int) -> Tensor:
        # x: [B x (1 + T + 1) x C], halves: [2 x stride C out x C].
        batch, length = len(x), x.shape[1] - 2
        stride, halves = halves.shape[1] // len(bias), halves.contiguous()
        first, second = (half.t().expand(batch, -1, -1) for half in halves)
        out = torch.baddbmm(bias.repeat(stride), x[:, 1:], first).baddbmm_(x[:, :-1], second)
        ctx.save_for_backward(x, halves)
        ctx.stride, ctx.padding = stride, padding
        return out.view(batch, -1, len(bias))[:, padding : padding + length * stride]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, halves = ctx.saved_tensors
        around = (ctx.padding, 2 * ctx.stride - ctx.padding)
        blocks = F.pad(grad, (0, 0, *around)).view(-1, halves.shape[1])
        rows = x.view(-1, x.shape[2])
        grad_x = blocks @ halves[1]
        grad_x[1:].addmm_(blocks[:-1], halves[0])
        grad_halves = torch.stack([blocks[:-1].t() @ rows[1:], blocks.t() @ rows])
        grad_bias = blocks.sum(0).view(ctx.stride, -1).sum(0)
        return grad_x.view(x.shape), grad_halves, grad_bias, None


class _ToMono(torch.autograd.Function):
    """A convolution to one channel."""
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        # x: [B x (T + taps - 1) x C], taps: [taps x C].
        taps = taps.contiguous()
        count, length = len(taps), x.shape[1] - len(taps) + 1
        products = x @ taps.t()
        shifted = products.as_strided(
            (len(x), length, count), (products.stride(0), count, count + 1)
        )
        ctx.save_for_backward(x, taps)
        return shifted.sum(2, keepdim=True) + bias

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, taps = ctx.saved_tensors
        around = len(taps) - 1
        # Position t of x met tap k in position t - k.
        windows = F.pad(grad[..., 0], (around, around)).unfold(1, len(taps), 1).contiguous()
        grad_taps = windows.flatten(0, 1).t() @ x.flatten(0, 1)
        return windows @ taps.flip(0), grad_taps.flip(0), grad.sum((0, 1))


def _layers(chain: Chain) -> Iterator[nn.Module]:
    """Yield the layers of ``chain`` and of the blocks in it."""
    for module in chain:
        if isinstance(module, (EncoderBlock, DecoderBlock)):
            yield from _layers(module.block)
        else:
            yield module


def _ends(extent: Extent, x: Tensor) -> Tensor:
    """Return how many positions of each item of ``x``, Tensor[B x T x C], are its own."""
    batch, length = x.shape[:2]
    if extent.valid is None:
        return torch.full((batch,), length)
    return (extent.valid // (extent.samples // length)).clamp(max=length)
