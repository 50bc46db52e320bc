"""The interface of a kernel backend: what the channels-last network needs beyond matrix products.

There are two implementations: compiled C++ for one window on a CPU, in `snac_core.kernels.cpu`, and
Triton for batches on a GPU, in `snac_core.kernels.gpu`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from snac_core.model.batch_context import BatchContext


class KernelBackend(Protocol):
    """Backend interface: the operations beyond matrix multiplication.

    A signal is Tensor[B x T x C]; the rows of an item lie one after the other, and items may be
    further apart. What lies past an item's end, as `BatchContext` says, is never read.
    """

    batches: bool
    """Whether they take more than one whole clip at once; they need `BatchContext.lengths` then."""

    def workspace(self, dtype: torch.dtype) -> Workspace:
        """Return memory for the signals of a run."""
        ...

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
        ...

    def unit(
        self, x: Tensor, weights: UnitWeights, context: BatchContext, workspace: Workspace
    ) -> Tensor:
        """Return a depth-wise residual unit of ``x``."""
        ...

    def normal(self, x: Tensor, index: int, context: BatchContext) -> Tensor | None:
        """Return `BatchContext.normal` of noise block ``index`` for ``x``: Tensor[B x T x 1]."""
        ...

    def noisy(self, x: Tensor, noise: Tensor, mix: Tensor, workspace: Workspace) -> Tensor:
        """Return ``x`` and ``noise``, Tensor[B x T x 1], times the product of ``x`` and ``mix``."""
        ...


class Snake(NamedTuple):
    """The weights of an activation: ``alpha`` and its reciprocal, Tensor[C] each."""

    alpha: Tensor
    inverse: Tensor


class UnitWeights(NamedTuple):
    """The weights of a depth-wise residual unit."""

    dilation: int
    first: Snake
    taps: Tensor
    """Tensor[7 x C]."""
    bias: Tensor
    second: Snake
    mix: Tensor
    """Tensor[C in x C out] of the point-wise convolution."""
    mix_bias: Tensor


class UnitState(NamedTuple):
    """What the streams of a batch remember, and where in it a late residual unit has its part."""

    before: Tensor
    """Tensor[B x S] of what is read."""
    after: Tensor
    """Tensor[B x S] of what is written for the next call."""
    active: int
    """Where the newest ``6 dilation`` rows of the first activation begin in a row of these."""
    skip: int
    """Where the newest ``3 dilation`` rows of the input do."""


class Workspace:
    """Memory for the signals of one window, used over and over.

    A fresh tensor of megabytes costs more in page faults than what is computed into it. Two
    buffers take turns: what `empty` returns stays as it is until the call after the next.
    """

    def __init__(self) -> None:
        self._signals, self._scratch = [torch.empty(0), torch.empty(0)], torch.empty(0)

    def empty(self, length: int, channels: int) -> Tensor:
        """Return Tensor[length x channels] of anything."""
        buffer = self._signals.pop(0)
        if buffer.numel() < length * channels:
            buffer = torch.empty(length * channels)
        self._signals.append(buffer)
        return buffer[: length * channels].view(length, channels)

    def scratch(self, size: int) -> Tensor:
        """Return Tensor[size] of anything, which the next call may return again."""
        if self._scratch.numel() < size:
            self._scratch = torch.empty(size)
        return self._scratch
