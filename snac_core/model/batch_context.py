"""Where each item of a batch lies in time: which samples are its own, and its noise.

The network's convolutions are not causal and zero-pad at both ends, so an item that
shares a batch with a longer one must keep seeing zeros after its own end. `BatchContext`
carries what the layers need for that, at whatever resolution they run.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from snac_core.model.noise import Draw, Noise


@dataclasses.dataclass(frozen=True)
class BatchContext:
    """The time axis of one batch.

    Parameters
    ----------
    samples
        Samples of the padded batch, a multiple of every resolution's step.
    lengths
        Tensor[B] of int64: samples of each item that are its own. None when all are,
        which costs nothing.
    noise
        Where decoder noise comes from: a `Noise`, ``"random"`` (training: torch's
        generator) or ``"off"``.
    """

    samples: int
    lengths: Tensor | None = None
    noise: Noise | str = "off"

    def mask(self, x: Tensor) -> Tensor:
        """Zero what lies past each item's end in ``x``, Tensor[B x C x T] at any resolution."""
        if self.lengths is None:
            return x
        length = x.shape[-1]
        own = self.lengths // (self.samples // length)
        keep = torch.arange(length, device=x.device) < own[:, None]
        # `where`, not a product: garbage past the end may have overflowed.
        return torch.where(keep[:, None, :], x, torch.zeros((), dtype=x.dtype, device=x.device))

    def normal(self, x: Tensor, block: int, draw: Draw | None = None) -> Tensor | None:
        """Return noise Tensor[B x 1 x T] for ``x``, Tensor[B x C x T], or None when off."""
        if isinstance(self.noise, Noise):
            length = x.shape[-1]
            return self.noise.normal(block, self.samples // length, length, draw).to(x.dtype)
        if self.noise == "random":
            return torch.randn((x.shape[0], 1, x.shape[-1]), device=x.device, dtype=x.dtype)
        if self.noise == "off":
            return None
        raise ValueError(f"noise must be a Noise, 'random' or 'off', not {self.noise!r}")
