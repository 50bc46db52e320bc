"""The compiled part of the way a CPU computes the network: built once on a machine, then loaded.

The source, ``cpu.cpp``, takes all sizes and weights as arguments. So one build serves every
model, and a model that is swapped for another. `snac_core.kernels.build` says where it is kept.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from snac_core.kernels.build import load
from snac_core.kernels.interface import Snake, UnitState, UnitWeights, Workspace
from snac_core.model.batch_context import BatchContext
from snac_core.types import Compile

_SIGNATURES = {
    "snac_snake": "xx nnnn xx n",
    "snac_unit": "xx nnn xxxx xxxx nxn",
    "snac_streaming_unit": "xx nnnn xxxx xxxx xxnnn nxn",
    "snac_noisy": "xx nn xx nxn",
    "snac_normal": "xnn xxn",
}
"""Arguments of the functions in ``cpu.cpp``: ``x`` an address, ``n`` an int64."""
_TYPES = {"x": ctypes.c_void_p, "n": ctypes.c_int64}

# Floats of a signal that a core works on at once: half a megabyte, beside as much again.
_TILE = 2**17


class CpuKernels:
    """The functions of ``cpu.cpp`` on tensors of rows, Tensor[T x C] of float32.

    They use as many threads as torch does in the thread that calls them.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = {name: getattr(library, name) for name in _SIGNATURES}
        for name, function in self._functions.items():
            function.restype = None
            # ctypes converts plain numbers by them, several times faster than objects for each.
            function.argtypes = [_TYPES[kind] for kind in _SIGNATURES[name].replace(" ", "")]

    def snake(
        self, x: Tensor, snake: Snake, workspace: Workspace, before: int = 0, after: int = 0
    ) -> Tensor:
        """Return the activation of ``x`` with rows of zeros ``before`` and ``after`` it."""
        length, channels = x.shape
        out = workspace.empty(before + length + after, channels)
        where = (length, channels, -before, length + after)
        self._call("snac_snake", x, out, *where, *snake, torch.get_num_threads())
        return out

    def unit(self, x: Tensor, weights: UnitWeights, workspace: Workspace) -> Tensor:
        """Return a depth-wise residual unit of ``x``."""
        length, channels = x.shape
        out, sizes = workspace.empty(length, channels), (length, channels, weights.dilation)
        self._call(
            "snac_unit", x, out, *sizes, *_flat(weights), *_tiles(x, workspace, weights.dilation)
        )
        return out

    def streaming_unit(
        self, x: Tensor, weights: UnitWeights, state: UnitState, workspace: Workspace
    ) -> Tensor:
        """Return a depth-wise residual unit of streams, Tensor[B x T x C], 3 dilation rows late."""
        out, rows = workspace.empty(x.shape[0] * x.shape[1], x.shape[2]), x.flatten(0, 1)
        self._call(
            "snac_streaming_unit",
            *(x, out, *x.shape, weights.dilation, *_flat(weights)),
            *(state.before, state.after, state.before.shape[1], state.active, state.skip),
            *_tiles(rows, workspace, weights.dilation),
        )
        return out.view(x.shape)

    def noisy(self, x: Tensor, noise: Tensor, mix: Tensor, workspace: Workspace) -> Tensor:
        """Return ``x`` with noise, Tensor[T], on top of each position, by a `NoiseBlock`."""
        out = workspace.empty(*x.shape)
        self._call("snac_noisy", x, out, *x.shape, noise, mix, *_tiles(x, workspace))
        return out

    def normal(self, key: Tensor, start: Tensor, length: int) -> Tensor:
        """Return what `draw_normal` does, Tensor[B x length]."""
        out, threads = torch.empty(len(key), length), torch.get_num_threads()
        where = (_address(key, torch.int64), _address(start, torch.int64))
        self._call("snac_normal", out, *out.shape, *where, threads)
        return out

    def _call(self, name: str, *arguments: Tensor | int) -> None:
        self._functions[name](
            *[value if isinstance(value, int) else _address(value) for value in arguments]
        )


def _flat(weights: UnitWeights) -> tuple[Tensor, ...]:
    first = (*weights.first, weights.taps, weights.bias)
    return (*first, *weights.second, weights.mix, weights.mix_bias)


def _tiles(x: Tensor, workspace: Workspace, dilation: int = 0) -> tuple[int, Tensor, int]:
    (length, channels), threads = x.shape, torch.get_num_threads()
    rows = min(max(_TILE // channels, 64), math.ceil(length / threads))
    own = (2 * rows + 6 * dilation) * channels
    return rows, workspace.scratch(threads * own), threads


def _address(value: Tensor, dtype: torch.dtype = torch.float32) -> int:
    if value.dtype != dtype or not value.is_contiguous() or not value.is_cpu:
        raise ValueError(
            f"kernels take contiguous {dtype} on the CPU, not {value.dtype} of "
            f"{tuple(value.shape)} with strides {value.stride()} on {value.device}"
        )
    return value.data_ptr()


def kernels(wanted: Compile = "auto") -> CpuKernels | None:
    """Return the kernels, built if need be; None where they are ``off`` or cannot be had.

    Raises
    ------
    KernelsError
        When they are ``on`` and cannot be had; ``auto`` logs the reason as a warning, once.
    """
    library = load("cpu", wanted)
    return None if library is None else CpuKernels(library)


class CpuBackend:
    """Those of `snac_core.kernels`, which take one whole window at a time."""

    batches = False

    def __init__(self, compiled: CpuKernels) -> None:
        self.compiled = compiled

    def workspace(self, dtype: torch.dtype) -> Workspace:
        """Return memory for the signals of a run, of float32."""
        return Workspace()

    def snake(
        self,
        x: Tensor,
        snake: Snake,
        context: BatchContext,
        workspace: Workspace,
        before: int = 0,
        after: int = 0,
    ) -> Tensor:
        """Return the activation of ``x`` with rows of zeros ``before`` and ``after`` it."""
        return self.compiled.snake(x[0], snake, workspace, before, after)[None]

    def unit(
        self, x: Tensor, weights: UnitWeights, context: BatchContext, workspace: Workspace
    ) -> Tensor:
        """Return a depth-wise residual unit of ``x``."""
        return self.compiled.unit(x[0], weights, workspace)[None]

    def normal(self, x: Tensor, index: int, context: BatchContext) -> Tensor | None:
        """Return `BatchContext.normal` for ``x``: Tensor[B x T x 1], of streams as well."""
        noise = context.normal(x.transpose(1, 2), index, self.compiled.normal)
        return None if noise is None else noise.transpose(1, 2)

    def noisy(self, x: Tensor, noise: Tensor, mix: Tensor, workspace: Workspace) -> Tensor:
        """Return ``x`` and ``noise`` times the product of ``x`` and ``mix``, of streams as well."""
        made = self.compiled.noisy(x.flatten(0, 1), noise.reshape(-1), mix, workspace)
        return made.view(x.shape)
