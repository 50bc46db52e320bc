"""Triton kernels of the channels-last network: the operations beyond matrix multiplication.

The formulas are those of ``snac_core/model/layers.py``. A signal is Tensor[B x T x C], channels
side by side, so that what a warp reads lies together. Each kernel reads a signal once and writes
each of its results once; what lies past an item's end is never read, and counts as zero.

Sums are of float32, whatever the signals are. Nothing here waits for the GPU or asks it for an
answer, so all of it may be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from snac_core.kernels.interface import Snake, UnitWeights, Workspace
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise

# Elements that a program of four warps works on at once. A residual unit keeps seven generations
# of them, in 64 registers a thread, which leaves half of a multiprocessor's warps in flight.
_TILE = 256
_WARPS = 4
# Times as many where nothing is kept: a program is over too soon otherwise.
_MORE = 8
# Where it also multiplies: a matrix unit takes 16 rows.
_WHOLE_ROWS = 16
# Rows that a lane of a residual unit makes; it reads six more.
_STEPS = 32
# Positions of noise of a program.
_POSITIONS = 1024


class DeviceWorkspace(Workspace):
    """Memory for the signals of one run, from torch's own store, which keeps what is freed."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device

    def empty(self, length: int, channels: int) -> Tensor:
        """Return Tensor[length x channels] of anything."""
        return torch.empty(length, channels, dtype=self._dtype, device=self._device)


class TritonBackend:
    """The `KernelBackend` of a GPU, for batches.

    Parameters
    ----------
    device
        Where the signals are.
    whole
        The most channels of a residual unit whose product is part of its kernel, in half
        precision: no signal leaves it then but the result. 0 leaves all products to the library.
    tile
        Elements that a program works on at once.
    steps
        Rows that a lane of a residual unit makes.
    """

    batches = True

    def __init__(
        self, device: torch.device, whole: int = 0, tile: int = _TILE, steps: int = _STEPS
    ) -> None:
        self._device, self._whole, self._tile, self._steps = device, whole, tile, steps

    def workspace(self, dtype: torch.dtype) -> Workspace:
        """Return memory for one run."""
        return DeviceWorkspace(dtype, self._device)

    def snake(
        self,
        x: Tensor,
        snake: Snake,
        context: BatchContext,
        workspace: Workspace,
        before: int = 0,
        after: int = 0,
    ) -> Tensor:
        """Return the activation of ``x``, zero past each end, with rows of zeros around it."""
        batch, length, channels = x.shape
        whole, wide = before + length + after, self._wide(channels)
        out, rows = workspace.empty(batch * whole, channels), _MORE * self._tile // wide
        grid = (triton.cdiv(whole, rows), batch, triton.cdiv(channels, wide))
        with torch.cuda.device_of(x):
            _snake_kernel[grid](
                *(x, _item(x), out, *snake, _lengths(context), context.samples // length),
                *(length, before, whole),
                CHANNELS=channels,
                ROWS=rows,
                WIDE=wide,
                num_warps=_WARPS,
            )
        return out.view(batch, whole, channels)

    def unit(
        self, x: Tensor, weights: UnitWeights, context: BatchContext, workspace: Workspace
    ) -> Tensor:
        """Return a depth-wise residual unit of ``x``."""
        batch, length, channels = x.shape
        whole = x.dtype != torch.float32 and channels <= self._whole
        wide = max(16, triton.next_power_of_2(channels)) if whole else self._wide(channels)
        lanes = _WHOLE_ROWS if whole else self._tile // wide
        out = workspace.empty(batch * length, channels)
        mixed = out if whole else workspace.empty(batch * length, channels)
        # Lanes of a dilation stand side by side, and a last group of them may be needed in part.
        groups = triton.cdiv(length, weights.dilation * self._steps)
        grid = (
            triton.cdiv(groups * weights.dilation, lanes),
            batch,
            triton.cdiv(channels, wide),
        )
        with torch.cuda.device_of(x):
            _unit_kernel[grid](
                *(x, _item(x), mixed, out, *weights.first, weights.taps, weights.bias),
                *(*weights.second, weights.mix, weights.mix_bias),
                *(_lengths(context), context.samples // length, length, weights.dilation),
                CHANNELS=channels,
                STEPS=self._steps,
                LANES=lanes,
                WIDE=wide,
                WHOLE=whole,
                num_warps=max(_WARPS, lanes * wide // 128) if whole else _WARPS,
            )
        if not whole:
            out.addmm_(mixed, weights.mix)
        return out.view(batch, length, channels)

    def normal(self, x: Tensor, index: int, context: BatchContext) -> Tensor | None:
        """Return `BatchContext.normal` for ``x``, Tensor[B x T x C]: Tensor[B x T x 1]."""
        noise, (batch, length, _) = context.noise, x.shape
        if type(noise) is not Noise:
            made = context.normal(x.transpose(1, 2), index)
            return None if made is None else made.transpose(1, 2)
        out = torch.empty(batch, length, 1, dtype=x.dtype, device=x.device)
        grid = (triton.cdiv(length, _POSITIONS), batch)
        step = context.samples // length
        with torch.cuda.device_of(x):
            _normal_kernel[grid](
                *(out, noise.seed, noise.start, index + 1, step, length),
                SIZE=_POSITIONS,
                num_warps=_WARPS,
            )
        return out

    def noisy(self, x: Tensor, noise: Tensor, mix: Tensor, workspace: Workspace) -> Tensor:
        """Return ``x`` and ``noise`` times the product of ``x`` and ``mix``."""
        batch, length, channels = x.shape
        out = workspace.empty(batch * length, channels)
        if x.is_contiguous():
            torch.mm(x.flatten(0, 1), mix, out=out)
            out = out.view(x.shape)
        else:
            # Items that lie apart: one product for each, in one call, without a copy.
            out = out.view(x.shape)
            torch.bmm(x, mix.expand(batch, -1, -1), out=out)
        return torch.addcmul(x, noise, out, out=out)

    def _wide(self, channels: int) -> int:
        """Return how many channels a program takes: a power of two that divides them, or all."""
        divisor = channels & -channels
        wide = divisor if divisor >= 16 else triton.next_power_of_2(channels)
        return min(wide, self._tile // 4)


def _item(x: Tensor) -> int:
    """Return how far apart the items of ``x`` are, whose rows must lie one after the other."""
    if x.stride(2) != 1 or x.stride(1) != x.shape[2]:
        raise ValueError(f"rows of {tuple(x.shape)} have strides {x.stride()}")
    return x.stride(0)


def _lengths(context: BatchContext) -> Tensor:
    if context.lengths is None:
        raise ValueError("a batch on a GPU needs the samples of each item")
    return context.lengths


@triton.jit
def _snake(x, alpha, inverse):
    """Return ``x + sin(alpha x)^2 / alpha``.

    The square of a sine has the period pi and no sign: so the argument less its nearest multiple
    of pi, then a polynomial, to within 3 units in the last place of the sine. From 2^22 on floats
    are too far apart for a sine to mean anything, and the square is only kept from above 1.
    """
    angle = alpha * x
    turns = tl.floor(angle * 0.318309886 + 0.5)
    r = tl.fma(turns, -3.14159274, angle)
    r = tl.fma(turns, 8.74227766e-8, r)
    square = r * r
    p = tl.fma(square, 2.6083159809786594e-06, -1.981069071916863322e-04)
    p = tl.fma(square, p, 8.33307858556509017944e-03)
    p = tl.fma(square, p, -1.66666597127914428711e-01)
    sine = tl.fma(r * square, p, r)
    return x + inverse * tl.minimum(sine * sine, 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _read(x, row, inside, here, CHANNELS: tl.constexpr):
    """Return rows of a signal in float32, zero where they are not ``inside``."""
    at = row.to(tl.int64)[:, None] * CHANNELS
    return tl.load(x + at, mask=inside[:, None] & here, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["step", "length", "before", "whole"])
def _snake_kernel(
    x,
    x_item,
    out,
    alpha,
    inverse,
    lengths,
    step,
    length,
    before,
    whole,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Write ``whole`` rows of each item: the activation, and zeros around it."""
    item = tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * WIDE + tl.arange(0, WIDE)
    here = (column < CHANNELS)[None, :]
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = tl.minimum(tl.load(lengths + item) // step, length)
    a = tl.load(alpha + column, mask=column < CHANNELS, other=0.0)[None, :]
    b = tl.load(inverse + column, mask=column < CHANNELS, other=0.0)[None, :]
    given = row - before
    inside = (given >= 0) & (given < own)
    value = _snake(_read(x + item * x_item + column[None, :], given, inside, here, CHANNELS), a, b)
    to = out + (item * whole + row)[:, None] * CHANNELS + column[None, :]
    tl.store(to, value.to(out.dtype.element_ty), mask=(row < whole)[:, None] & here)


@triton.jit(do_not_specialize=["step", "length", "dilation"])
def _unit_kernel(
    x,
    x_item,
    mixed,
    out,
    alpha1,
    inverse1,
    taps,
    bias1,
    alpha2,
    inverse2,
    mix,
    bias2,
    lengths,
    step,
    length,
    dilation,
    CHANNELS: tl.constexpr,
    STEPS: tl.constexpr,
    LANES: tl.constexpr,
    WIDE: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Write what a residual unit mixes, and what that adds to; or, where ``WHOLE``, their sum.

    A lane takes every ``dilation``-th row, ``STEPS`` of them, one after the other, and holds the
    seven activations that it convolves: each is computed once, but for six before a lane's first.
    """
    item = tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * WIDE + tl.arange(0, WIDE)
    real = column < CHANNELS
    here = real[None, :]
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row = (lane // dilation) * (dilation * STEPS) + lane % dilation
    own = tl.minimum(tl.load(lengths + item) // step, length)
    x += item * x_item + column[None, :]
    out += item * length * CHANNELS + column[None, :]
    mixed += item * length * CHANNELS + column[None, :]

    first_a = tl.load(alpha1 + column, mask=real, other=0.0)[None, :]
    first_b = tl.load(inverse1 + column, mask=real, other=0.0)[None, :]
    second_a = tl.load(alpha2 + column, mask=real, other=0.0)[None, :]
    second_b = tl.load(inverse2 + column, mask=real, other=0.0)[None, :]
    bias = tl.load(bias1 + column, mask=real, other=0.0)[None, :]
    more = tl.load(bias2 + column, mask=real, other=0.0)[None, :]
    w0 = tl.load(taps + column, mask=real, other=0.0)[None, :]
    w1 = tl.load(taps + CHANNELS + column, mask=real, other=0.0)[None, :]
    w2 = tl.load(taps + 2 * CHANNELS + column, mask=real, other=0.0)[None, :]
    w3 = tl.load(taps + 3 * CHANNELS + column, mask=real, other=0.0)[None, :]
    w4 = tl.load(taps + 4 * CHANNELS + column, mask=real, other=0.0)[None, :]
    w5 = tl.load(taps + 5 * CHANNELS + column, mask=real, other=0.0)[None, :]
    w6 = tl.load(taps + 6 * CHANNELS + column, mask=real, other=0.0)[None, :]
    if WHOLE:
        cell = column[:, None] * CHANNELS + column[None, :]
        matrix = tl.load(mix + cell, mask=real[:, None] & here, other=0.0)

    t = row - 3 * dilation
    a0 = _snake(_read(x, t, (t >= 0) & (t < own), here, CHANNELS), first_a, first_b)
    t += dilation
    a1 = _snake(_read(x, t, (t >= 0) & (t < own), here, CHANNELS), first_a, first_b)
    t += dilation
    a2 = _snake(_read(x, t, (t >= 0) & (t < own), here, CHANNELS), first_a, first_b)
    a3 = _snake(_read(x, row, row < own, here, CHANNELS), first_a, first_b)
    t = row + dilation
    a4 = _snake(_read(x, t, t < own, here, CHANNELS), first_a, first_b)
    t += dilation
    a5 = _snake(_read(x, t, t < own, here, CHANNELS), first_a, first_b)
    t += dilation
    coming = _read(x, t, t < own, here, CHANNELS)
    for _ in range(STEPS):
        a6 = _snake(coming, first_a, first_b)
        # On its way while this step is computed.
        t += dilation
        coming = _read(x, t, t < own, here, CHANNELS)
        # Read three steps ago: it is still near.
        same = _read(x, row, row < own, here, CHANNELS) + more
        total = tl.fma(a0, w0, bias)
        total = tl.fma(a1, w1, total)
        total = tl.fma(a2, w2, total)
        total = tl.fma(a3, w3, total)
        total = tl.fma(a4, w4, total)
        total = tl.fma(a5, w5, total)
        total = tl.fma(a6, w6, total)
        total = _snake(total, second_a, second_b)
        at = row.to(tl.int64)[:, None] * CHANNELS
        known = (row < length)[:, None] & here
        if WHOLE:
            same = tl.dot(total.to(mix.dtype.element_ty), matrix, same, input_precision="ieee")
        else:
            tl.store(mixed + at, total.to(mixed.dtype.element_ty), mask=known)
        tl.store(out + at, same.to(out.dtype.element_ty), mask=known)
        a0, a1, a2, a3, a4, a5 = a1, a2, a3, a4, a5, a6
        row += dilation


@triton.jit
def _mix(word):
    """Scramble 32 bits, as `snac_core.context` does."""
    word = (word ^ (word >> 16)) * 0x7FEB352D
    word = (word ^ (word >> 15)) * 0x846CA68B
    return word ^ (word >> 16)


@triton.jit(do_not_specialize=["number", "step", "length"])
def _normal_kernel(out, seed, start, number, step, length, SIZE: tl.constexpr):
    """Write each item's noise: `Noise.normal` of block ``number - 1``."""
    item = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    own = tl.load(seed + item)
    key = _mix(_mix(own.to(tl.uint32)) ^ (own >> 32).to(tl.uint32))
    key = _mix(key + 0x9E3779B9 * number.to(tl.uint32))
    word = _mix((tl.load(start + item) // step + place).to(tl.uint32) ^ key)
    first = (_mix(word ^ 0x68E31DA4).to(tl.float64) + 1.0) / 4294967296.0
    second = _mix(word ^ 0xB5297A4D).to(tl.float64) / 4294967296.0
    value = tl.sqrt(-2.0 * tl.log(first)) * tl.cos(6.283185307179586 * second)
    # Rounded twice where it must be short, as noise that is made elsewhere.
    value = value.to(tl.float32).to(out.dtype.element_ty)
    tl.store(out + item * length + place, value, mask=place < length)
