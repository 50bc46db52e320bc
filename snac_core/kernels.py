"""The compiled part of the way a CPU computes the network: built once on a machine, then loaded.

The source, ``kernels.cpp``, takes all sizes and weights as arguments. So one build serves every
model, and a model that is swapped for another. It is kept in the user's cache
(``XDG_CACHE_HOME``), under a name made of everything that decides it, and needs a C++ compiler
only the first time. Ahead of time, as for an image without a compiler,

    python -m snac_core.build_kernels FOLDER

builds for every CPU that it is written for. It is looked for in this package's folder, too.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from snac_core.errors import KernelsError
from snac_core.types import Compile

_SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = {
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mf16c"),
}
KINDS = tuple(_FLAGS)
_COMPILERS = ("c++", "g++", "clang++")
# Floats of a signal that a core works on at once: half a megabyte, beside as much again.
_TILE = 2**17

_log = logging.getLogger(__name__)


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


class UnitMemory(NamedTuple):
    """What the streams of a batch remember, and where in it a late residual unit has its part."""

    before: Tensor
    """Tensor[B x S] of what is read."""
    after: Tensor
    """Tensor[B x S] of what is written for the next call."""
    active: int
    """Where the newest ``6 dilation`` rows of the first activation begin in a row of these."""
    skip: int
    """Where the newest ``3 dilation`` rows of the input do."""


class Space:
    """Memory for the signals of one window, used over and over.

    A fresh tensor of megabytes costs more in page faults than what is computed into it. Two
    buffers take turns: what `take` returns stays as it is until the call after the next.
    """

    def __init__(self) -> None:
        self._signals, self._scratch = [torch.empty(0), torch.empty(0)], torch.empty(0)

    def take(self, length: int, channels: int) -> Tensor:
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


class Kernels:
    """The functions of ``kernels.cpp`` on tensors of rows, Tensor[T x C] of float32.

    They use as many threads as torch does in the thread that calls them.
    """

    def __init__(self, library: Path) -> None:
        # It finds the matrix product, the sine and the threads among what torch has loaded.
        self._library = ctypes.CDLL(str(library))
        for name in ("snac_snake", "snac_unit", "snac_late_unit", "snac_noisy", "snac_normal"):
            getattr(self._library, name).restype = None

    def snake(
        self, x: Tensor, snake: Snake, space: Space, before: int = 0, after: int = 0
    ) -> Tensor:
        """Return the activation of ``x`` with rows of zeros ``before`` and ``after`` it."""
        length, channels = x.shape
        out = space.take(before + length + after, channels)
        where = (length, channels, -before, length + after)
        self._call("snac_snake", x, out, *where, *snake, torch.get_num_threads())
        return out

    def unit(self, x: Tensor, weights: UnitWeights, space: Space) -> Tensor:
        """Return a depth-wise residual unit of ``x``."""
        length, channels = x.shape
        out, sizes = space.take(length, channels), (length, channels, weights.dilation)
        self._call(
            "snac_unit", x, out, *sizes, *_flat(weights), *_tiles(x, space, weights.dilation)
        )
        return out

    def late_unit(
        self, x: Tensor, weights: UnitWeights, memory: UnitMemory, space: Space
    ) -> Tensor:
        """Return a depth-wise residual unit of streams, Tensor[B x T x C], 3 dilation rows late."""
        out, rows = space.take(x.shape[0] * x.shape[1], x.shape[2]), x.flatten(0, 1)
        self._call(
            "snac_late_unit",
            *(x, out, *x.shape, weights.dilation, *_flat(weights)),
            *(memory.before, memory.after, memory.before.shape[1], memory.active, memory.skip),
            *_tiles(rows, space, weights.dilation),
        )
        return out.view(x.shape)

    def noisy(self, x: Tensor, noise: Tensor, mix: Tensor, space: Space) -> Tensor:
        """Return ``x`` with noise, Tensor[T], on top of each position, by a `NoiseBlock`."""
        out = space.take(*x.shape)
        self._call("snac_noisy", x, out, *x.shape, noise, mix, *_tiles(x, space))
        return out

    def normal(self, key: Tensor, start: Tensor, length: int) -> Tensor:
        """Return what `draw_normal` does, Tensor[B x length]."""
        out, threads = torch.empty(len(key), length), torch.get_num_threads()
        where = (_pointer(key, torch.int64), _pointer(start, torch.int64))
        self._call("snac_normal", out, *out.shape, *where, threads)
        return out

    def _call(self, name: str, *arguments: Tensor | int | ctypes.c_void_p) -> None:
        getattr(self._library, name)(*(_argument(value) for value in arguments))


def _flat(weights: UnitWeights) -> tuple[Tensor, ...]:
    first = (*weights.first, weights.taps, weights.bias)
    return (*first, *weights.second, weights.mix, weights.mix_bias)


def _tiles(x: Tensor, space: Space, dilation: int = 0) -> tuple[int, Tensor, int]:
    (length, channels), threads = x.shape, torch.get_num_threads()
    rows = min(max(_TILE // channels, 64), math.ceil(length / threads))
    own = (2 * rows + 6 * dilation) * channels
    return rows, space.scratch(threads * own), threads


def _argument(value: Tensor | int | ctypes.c_void_p) -> ctypes.c_void_p | ctypes.c_int64:
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return _pointer(value, torch.float32) if isinstance(value, Tensor) else value


def _pointer(value: Tensor, dtype: torch.dtype) -> ctypes.c_void_p:
    if value.dtype != dtype or not value.is_contiguous() or value.device.type != "cpu":
        raise ValueError(
            f"kernels take contiguous {dtype} on the CPU, not {value.dtype} of "
            f"{tuple(value.shape)} with strides {value.stride()} on {value.device}"
        )
    return ctypes.c_void_p(value.data_ptr())


def kernels(wanted: Compile = "auto") -> Kernels | None:
    """Return the kernels, built if need be; None where they are ``off`` or cannot be had.

    Raises
    ------
    KernelsError
        When they are ``on`` and cannot be had; ``auto`` logs the reason as a warning, once.
    """
    if wanted not in ("auto", "on", "off"):
        raise ValueError(f"compile must be 'auto', 'on' or 'off', not {wanted!r}")
    if wanted == "off":
        return None
    found = _found()
    if isinstance(found, Kernels):
        return found
    if wanted == "on":
        raise KernelsError(found)
    return None


@functools.cache
def _found() -> Kernels | str:
    try:
        return Kernels(library())
    except (KernelsError, OSError) as error:
        reason = f"no compiled kernels: {error}"
        _log.warning("%s; the CPU computes the same, more slowly", reason)
        return reason


def library() -> Path:
    """Return the shared library for this CPU, after building it if this machine has none yet.

    Raises
    ------
    KernelsError
        If this CPU is not one it is written for, or there is no compiler, or that fails.
    """
    kind = torch.backends.cpu.get_cpu_capability()
    if sys.platform != "linux" or platform.machine() != "x86_64" or kind not in _FLAGS:
        raise KernelsError(
            f"they are for Linux on x86-64 with AVX2 or AVX-512, not for {sys.platform} on "
            f"{platform.machine()} with {kind}"
        )
    name = _name(kind)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snac_tokenizer"
    for folder in (_SOURCE.parent, cache):
        if (folder / name).exists():
            return folder / name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return build(kind, cache)
    except PermissionError:
        # A home that cannot be written to: built anew in each process.
        return build(kind, Path(_own_folder().name))


def _name(kind: str) -> str:
    key = hashlib.sha256(_SOURCE.read_bytes())
    key.update(" ".join((torch.__version__, kind, *_FLAGS[kind])).encode())
    return f"kernels-{kind.lower()}-{key.hexdigest()[:16]}.so"


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="snac-kernels-")


def build(kind: str, folder: Path) -> Path:
    """Build for a kind of CPU, one of `KINDS`, into ``folder``; KernelsError if that fails."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    target = folder / _name(kind)
    if compiler is None:
        raise KernelsError(f"{target} is not there, nor any of {', '.join(_COMPILERS)}")
    torch_folder = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=folder) as own:
        unlinked, linked = Path(own) / "kernels.o", Path(own) / target.name
        defines = ("-DCPU_CAPABILITY=" + kind, "-DCPU_CAPABILITY_" + kind)
        include = ("-I", str(torch_folder / "include"))
        options = ("-O3", "-std=c++20", "-fPIC", "-fopenmp", *_FLAGS[kind], *defines, *include)
        _run(compiler, *options, "-c", str(_SOURCE), "-o", str(unlinked))
        # Without -fopenmp: torch has its own copy of that library, and two would compete.
        libraries = ("-L", str(torch_folder / "lib"), "-ltorch_cpu")
        _run(compiler, "-shared", str(unlinked), "-o", str(linked), *libraries)
        linked.replace(target)
    return target


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelsError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
