"""Convolutions of channels-last signals, Tensor[B x T x C], as products of matrices.

A change of rate whose kernel is twice its stride is two products over views of the same memory:
``stride`` positions lie side by side and are one row. Each function takes its input already
padded, and its kernel with the taps in front.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from snac_core.kernels.training import applied


def from_mono(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """Return Tensor[B x T x C] of ``x``, Tensor[B x T], and ``taps``, Tensor[C x odd number]."""
    count = taps.shape[1]
    windows = F.pad(x, (count // 2, count // 2)).unfold(1, count, 1)
    return F.linear(windows.contiguous(), taps, bias)


def to_mono(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """Return Tensor[B x T x 1] of ``x``, Tensor[B x (T + taps - 1) x C].

    ``taps`` is Tensor[taps x C], ``bias`` Tensor[1].
    """
    return applied(_ToMono, x, taps, bias)


def down_sample(x: Tensor, halves: Tensor, bias: Tensor | None) -> Tensor:
    """Return Tensor[B x T/stride x C out] of ``x``, Tensor[B x (T + stride) x C].

    ``halves`` is Tensor[2 x stride C x C out]: what the first and the last ``stride`` taps do.
    """
    return applied(_Down, x, halves, bias)


def up_sample(x: Tensor, halves: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Return Tensor[B x T stride x C out] of ``x``, Tensor[B x (1 + T + 1) x C].

    ``halves`` is Tensor[2 x stride C out x C]: what a position does to the first ``stride``
    positions that it reaches, and to the last. Of what the transposed convolution makes, the
    first ``padding`` positions are left out.
    """
    return applied(_Up, x, halves, bias, padding)


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
    @once_differentiable
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
    @once_differentiable
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
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, taps = ctx.saved_tensors
        around = len(taps) - 1
        # Position t of x met tap k in position t - k.
        windows = F.pad(grad[..., 0], (around, around)).unfold(1, len(taps), 1).contiguous()
        grad_taps = windows.flatten(0, 1).t() @ x.flatten(0, 1)
        return windows @ taps.flip(0), grad_taps.flip(0), grad.sum((0, 1))
