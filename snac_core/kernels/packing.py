"""The network's weights packed for channels-last matrix products.

A signal of ``C`` channels is Tensor[T x C], so a weight has its input channels along the
first axis and its output channels along the second. Whole clips and streams read the same copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from snac_core.kernels.interface import Snake, UnitWeights
from snac_core.model.layers import ResidualUnit, Snake1d

Module = TypeVar("Module", bound=nn.Module)
Ordered = TypeVar("Ordered")


class PackedWeights:
    """The weights of a model's layers, each put in order when it is first asked for.

    Parameters
    ----------
    dtype
        Of what is multiplied; activations and taps stay float32.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self._made: dict[nn.Module, Any] = {}
        self._dtype = dtype

    def of(self, module: Module, order: Callable[[Module], Ordered]) -> Ordered:
        """Return ``order(module)``, one of this file's functions, made once."""
        if module not in self._made:
            with torch.no_grad():
                self._made[module] = _multiplied_in(self._dtype, order(module))
        return cast(Ordered, self._made[module])


class RateWeights(NamedTuple):
    """A convolution, transposed or not, whose kernel is twice its stride: two products."""

    early: Tensor
    """The kernel's first half: Tensor[stride*C x C out], transposed Tensor[C x stride*C out]."""
    late: Tensor
    """Its second half."""
    bias: Tensor
    """Tensor[C out], of a transposed one Tensor[stride*C out]."""


class TapWeights(NamedTuple):
    """A convolution of a single channel, to a single channel, or of a single tap."""

    taps: Tensor
    """Tensor[taps x C out], Tensor[C in x taps], or Tensor[C in x C out]."""
    bias: Tensor


def _multiplied_in(dtype: torch.dtype, weights: Any) -> Any:
    if isinstance(weights, UnitWeights):
        return weights._replace(mix=weights.mix.to(dtype))
    if isinstance(weights, (RateWeights, TapWeights)):
        return type(weights)(*(part.to(dtype) for part in weights))
    return weights


def changes_rate(module: nn.Module) -> bool:
    """Return whether two products over blocks of ``stride`` positions compute ``module``."""
    up = isinstance(module, nn.ConvTranspose1d)
    return up or (isinstance(module, nn.Conv1d) and module.kernel_size[0] == 2 * module.stride[0])


def depthwise(module: ResidualUnit) -> bool:
    """Return whether ``module`` is what `unit` takes."""
    return cast(nn.Conv1d, module.block[1]).groups > 1


def snake(module: nn.Module) -> Snake:
    """Return the weights of a `Snake1d`."""
    alpha = cast(Snake1d, module).alpha.reshape(-1)
    return Snake(alpha.contiguous(), (alpha + 1e-9).reciprocal())


def unit(module: ResidualUnit) -> UnitWeights:
    """Return the weights of a depth-wise `ResidualUnit`."""
    wide, last = cast(nn.Conv1d, module.block[1]), cast(nn.Conv1d, module.block[3])
    taps, bias = mix(last)
    return UnitWeights(
        dilation=wide.dilation[0],
        first=snake(module.block[0]),
        taps=wide.weight[:, 0].t().contiguous(),
        bias=_bias(wide),
        second=snake(module.block[2]),
        mix=taps,
        mix_bias=bias,
    )


def downsampling(conv: nn.Conv1d) -> RateWeights:
    """Return the weights of a convolution that `changes_rate`."""
    taps = conv.weight.permute(2, 1, 0)
    early, late = (part.reshape(-1, conv.out_channels).contiguous() for part in taps.chunk(2))
    return RateWeights(early, late, _bias(conv))


def upsampling(up: nn.ConvTranspose1d) -> RateWeights:
    """Return the weights of a transposed convolution that `changes_rate`."""
    taps = up.weight.permute(0, 2, 1)
    early, late = (part.reshape(up.in_channels, -1).contiguous() for part in taps.chunk(2, dim=1))
    return RateWeights(early, late, _bias(up).repeat(up.stride[0]))


def mix(conv: nn.Conv1d) -> TapWeights:
    """Return the weights of a convolution of a single tap."""
    return TapWeights(conv.weight[:, :, 0].t().contiguous(), _bias(conv))


def from_one_channel(conv: nn.Conv1d) -> TapWeights:
    """Return the weights of a convolution of a single channel."""
    return TapWeights(conv.weight[:, 0].t().contiguous(), _bias(conv))


def to_one_channel(conv: nn.Conv1d) -> TapWeights:
    """Return the weights of a convolution to a single channel."""
    return TapWeights(conv.weight[0].contiguous(), _bias(conv))


def _bias(module: nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    if module.bias is None:
        return module.weight.new_zeros(module.out_channels)
    return module.bias.contiguous()
