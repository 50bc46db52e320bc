"""What the network in rows asks of a machine, beside products of matrices.

Two makers answer: compiled C++ for one window on a CPU, here, and Triton for batches on a GPU, in
`snac_core.gpu_kernels`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from snac_core.kernels import Kernels, Snake, Space, UnitWeights
from snac_core.model.batch_context import Extent


class RowKernels(Protocol):
    """The parts of the network that no library call does in one go.

    A signal is Tensor[B x T x C]; the rows of an item lie one after the other, and items may be
    further apart. What lies past an item's end, as `Extent` says, is never read.
    """

    batches: bool
    """Whether they take more than one whole clip at once; they need `Extent.valid` then."""

    def space(self, dtype: torch.dtype) -> Space:
        """Return memory for the signals of a run."""
        ...

    def snake(
        self,
        x: Tensor,
        snake: Snake,
        extent: Extent,
        space: Space,
        before: int = 0,
        after: int = 0,
    ) -> Tensor:
        """Return the activation of ``x``, zero past each end, with rows of zeros around it."""
        ...

    def unit(self, x: Tensor, weights: UnitWeights, extent: Extent, space: Space) -> Tensor:
        """Return a depth-wise residual unit of ``x``."""
        ...

    def normal(self, x: Tensor, index: int, extent: Extent) -> Tensor | None:
        """Return `Extent.normal` of noise block ``index`` for ``x``: Tensor[B x T x 1]."""
        ...

    def noisy(self, x: Tensor, noise: Tensor, mix: Tensor, space: Space) -> Tensor:
        """Return ``x`` and ``noise``, Tensor[B x T x 1], times the product of ``x`` and ``mix``."""
        ...


class WindowKernels:
    """Those of `snac_core.kernels`, which take one whole window at a time."""

    batches = False

    def __init__(self, compiled: Kernels) -> None:
        self.compiled = compiled

    def space(self, dtype: torch.dtype) -> Space:
        """Return memory for the signals of a run, of float32."""
        return Space()

    def snake(
        self,
        x: Tensor,
        snake: Snake,
        extent: Extent,
        space: Space,
        before: int = 0,
        after: int = 0,
    ) -> Tensor:
        """Return the activation of ``x`` with rows of zeros ``before`` and ``after`` it."""
        return self.compiled.snake(x[0], snake, space, before, after)[None]

    def unit(self, x: Tensor, weights: UnitWeights, extent: Extent, space: Space) -> Tensor:
        """Return a depth-wise residual unit of ``x``."""
        return self.compiled.unit(x[0], weights, space)[None]

    def normal(self, x: Tensor, index: int, extent: Extent) -> Tensor | None:
        """Return `Extent.normal` for ``x``: Tensor[B x T x 1], of streams as well."""
        noise = extent.normal(x.transpose(1, 2), index, self.compiled.normal)
        return None if noise is None else noise.transpose(1, 2)

    def noisy(self, x: Tensor, noise: Tensor, mix: Tensor, space: Space) -> Tensor:
        """Return ``x`` and ``noise`` times the product of ``x`` and ``mix``, of streams as well."""
        made = self.compiled.noisy(x.flatten(0, 1), noise.reshape(-1), mix, space)
        return made.view(x.shape)
