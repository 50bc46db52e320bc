"""The decoder's noise, drawn from a seed and the position in the clip."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF

Draw: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""A way to compute `draw_normal`."""


@dataclasses.dataclass(frozen=True)
class Noise:
    """Decoder noise that depends on nothing but a seed and a position in time.

    Parameters
    ----------
    seed
        Tensor[B] of int64, each item's seed.
    start
        Tensor[B] of int64, each item's first sample counted from the start of its clip.
    """

    seed: Tensor
    start: Tensor

    def normal(self, block: int, step: int, length: int, draw: Draw | None = None) -> Tensor:
        """Return Tensor[B x 1 x length] of standard normal noise.

        Parameters
        ----------
        block
            Index of the noise block: blocks draw different noise.
        step
            Samples per position at this block's resolution.
        length
            Positions wanted from ``start`` on.
        draw
            What computes it; None is `draw_normal`.
        """
        key = _mix(_mix(self.seed & _MASK32) ^ ((self.seed >> 32) & _MASK32))
        key = _mix(key + 0x9E3779B9 * (block + 1))
        return (draw or draw_normal)(key, self.start // step, length)[:, None, :]


def draw_normal(key: Tensor, start: Tensor, length: int) -> Tensor:
    """Return Tensor[B x length] of standard normal noise that ``key`` and position decide.

    Parameters
    ----------
    key
        Tensor[B] of int64 with 32 bits that matter.
    start
        Tensor[B] of int64, the first position of each item.
    length
        Positions wanted.
    """
    positions = start[:, None] + torch.arange(length, device=start.device)
    word = _mix((positions & _MASK32) ^ key[:, None])
    # Box-Muller, with the first uniform in (0, 1] so that its logarithm is finite.
    first = (_mix(word ^ 0x68E31DA4).double() + 1.0) / 2.0**32
    second = _mix(word ^ 0xB5297A4D).double() / 2.0**32
    return (torch.sqrt(-2.0 * torch.log(first)) * torch.cos(2.0 * math.pi * second)).float()


def _mix(word: Tensor) -> Tensor:
    """Scramble the low 32 bits of an int64 tensor (the `lowbias32` finalizer by C. Wellons)."""
    word = word & _MASK32
    word = (word ^ (word >> 16)) * 0x7FEB352D & _MASK32
    word = (word ^ (word >> 15)) * 0x846CA68B & _MASK32
    return word ^ (word >> 16)


@dataclasses.dataclass(frozen=True)
class MaskedNoise(Noise):
    """Noise that some items of a batch go without.

    Parameters
    ----------
    mask
        Tensor[B]: 1 for an item with noise, 0 for one without.
    """

    mask: Tensor

    def normal(self, block: int, step: int, length: int, draw: Draw | None = None) -> Tensor:
        """Return Tensor[B x 1 x length] as `Noise.normal` does, zero where muted."""
        return super().normal(block, step, length, draw) * self.mask[:, None, None]
