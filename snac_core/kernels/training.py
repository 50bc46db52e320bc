"""Layers of the network in training, forward and backward, as compiled for a CPU.

Signals are channels-last, Tensor[B x T x C], of float32, or of float64 to check gradients. The
formulas are those of `snac_core.model.layers`. ``ends``, Tensor[B] of int64, says how many
positions of each item are its own: what mixes time finds zeros past them. Results do not depend
on the number of threads, which is torch's.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snac_core.kernels.build import load
from snac_core.types import Compile

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


class UnitWeights(NamedTuple):
    """The weights of a depthwise residual unit, in the order in which it applies them."""

    alpha1: Tensor
    """Tensor[C]."""
    taps: Tensor
    """Tensor[7 x C]."""
    bias1: Tensor
    alpha2: Tensor
    mix: Tensor
    """Tensor[C out x C in]."""
    bias2: Tensor


class TrainingKernels:
    """The functions of ``training.cpp``, differentiable once."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def snake(self, x: Tensor, alpha: Tensor, ends: Tensor, before: int, after: int) -> Tensor:
        """Return the activation of ``x``, zero past each end, and as many more zeros around it.

        Parameters
        ----------
        x, alpha, ends
            Tensor[B x T x C], Tensor[C], Tensor[B].
        before, after
            Rows of zeros to add: the result is Tensor[B x (before + T + after) x C].
        """
        return applied(_Snake, self, x, alpha, ends, before, after)

    def unit(self, x: Tensor, ends: Tensor, dilation: int, weights: UnitWeights) -> Tensor:
        """Return a depthwise residual unit of ``x``, Tensor[B x T x C]."""
        return applied(_Unit, self, x, ends, dilation, *weights)

    def noise(self, x: Tensor, noise: Tensor, mix: Tensor) -> Tensor:
        """Return ``x`` plus ``noise``, Tensor[B x T], times ``x`` mixed by Tensor[C out x C in].

        The items of ``x`` may lie apart in memory. ``noise`` gets no gradient.
        """
        return applied(_Noise, self, x, noise, mix)

    def call(self, name: str, like: Tensor, *arguments: Tensor | int) -> None:
        """Call a function in the precision of ``like``."""
        values = [_argument(value, like.dtype) for value in arguments]
        symbol = f"snac_{name}_{_SUFFIX[like.dtype]}"
        address = ctypes.c_void_p.in_dll(self._library, symbol).value
        assert address is not None
        ctypes.CFUNCTYPE(None)(address)(*values, ctypes.c_int64(torch.get_num_threads()))


class _Snake(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: TrainingKernels,
        x: Tensor,
        alpha: Tensor,
        ends: Tensor,
        before: int,
        after: int,
    ) -> Tensor:
        x, alpha = x.contiguous(), alpha.contiguous()
        out = x.new_empty(x.shape[0], before + x.shape[1] + after, x.shape[2])
        kernels.call("snake_forward", x, x, out, *x.shape, before, after, ends, alpha)
        ctx.save_for_backward(x, alpha, ends)
        ctx.kernels, ctx.around = kernels, (before, after)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, ends = ctx.saved_tensors
        grad_x, grad_alpha = torch.empty_like(x), torch.empty_like(alpha)
        where = (*x.shape, *ctx.around, ends)
        ctx.kernels.call(
            "snake_backward", x, x, grad.contiguous(), grad_x, *where, alpha, grad_alpha
        )
        return None, grad_x, grad_alpha, None, None, None


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: TrainingKernels, x: Tensor, ends: Tensor, dilation: int, *weights: Tensor
    ) -> Tensor:
        x, weights = x.contiguous(), tuple(weight.contiguous() for weight in weights)
        out = torch.empty_like(x)
        kernels.call("unit_forward", x, x, out, *x.shape, dilation, ends, *weights)
        ctx.save_for_backward(x, ends, *weights)
        ctx.kernels, ctx.dilation = kernels, dilation
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, ends, *weights = ctx.saved_tensors
        channels = x.shape[2]
        grad_x, flat = torch.empty_like(x), x.new_empty(channels * (channels + 11))
        ctx.kernels.call(
            "unit_backward",
            *(x, x, grad.contiguous(), grad_x, flat, *x.shape, ctx.dilation, ends, *weights),
        )
        mix, rest = flat[: channels**2].view(channels, channels), flat[channels**2 :]
        # As the kernel leaves them; in the order of `UnitWeights` they are returned.
        bias2, alpha2, bias1, taps, alpha1 = rest.view(11, channels).split((1, 1, 1, 7, 1))
        return (
            *(None, grad_x, None, None),
            *(alpha1[0], taps, bias1[0], alpha2[0], mix, bias2[0]),
        )


class _Noise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: TrainingKernels, x: Tensor, noise: Tensor, mix: Tensor
    ) -> Tensor:
        if x.stride()[1:] != (x.shape[2], 1):
            x = x.contiguous()
        noise, mix = noise.contiguous(), mix.contiguous()
        out = x.new_empty(x.shape)
        kernels.call("noise_forward", x, x, x.stride(0), out, *x.shape, noise, mix)
        ctx.save_for_backward(x, noise, mix)
        ctx.kernels = kernels
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, noise, mix = ctx.saved_tensors
        grad_x, grad_mix = x.new_empty(x.shape), torch.empty_like(mix)
        ctx.kernels.call(
            "noise_backward",
            *(x, x, x.stride(0), grad.contiguous(), grad_x, grad_mix, *x.shape, noise, mix),
        )
        return None, grad_x, None, grad_mix


def training_kernels(wanted: Compile = "auto") -> TrainingKernels | None:
    """Return the kernels, built if need be; None where they are ``off`` or cannot be had.

    Raises
    ------
    KernelsError
        When they are ``on`` and cannot be had; ``auto`` logs the reason as a warning, once.
    """
    library = load("training", wanted)
    return None if library is None else TrainingKernels(library)


def applied(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """Return what ``function`` makes of ``arguments``."""
    made: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return made


def _argument(value: Tensor | int, dtype: torch.dtype) -> ctypes.c_void_p | ctypes.c_int64:
    if isinstance(value, int):
        return ctypes.c_int64(value)
    readable = value.dtype in (dtype, torch.int64) and dtype in _SUFFIX
    if value.device.type != "cpu" or not readable:
        raise ValueError(
            f"the kernels of training take torch.float32 or torch.float64 on the CPU, all of one "
            f"kind, not {value.dtype} on {value.device} beside {dtype}"
        )
    return ctypes.c_void_p(value.data_ptr())
