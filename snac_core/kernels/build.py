"""Builds the C++ kernels of this folder with the machine's compiler, and loads them.

A library is kept in the user's cache (``XDG_CACHE_HOME``), under a name made of everything that
decides it and a checksum, so that a compiler is needed only the first time. It is looked for in
this package's folder, too. Ahead of time, as for an image without a compiler,

    python -m snac_core.kernels.build [FOLDER]

builds all of them for every CPU that they are written for: into this package's own folder, unless
another is named.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from snac_core.errors import KernelsError
from snac_core.kernels import cache
from snac_core.types import Compile

_FOLDER = Path(__file__).parent

SOURCES = ("cpu", "training")
"""Of inference, and of training; each a file of C++ and a library."""

_FLAGS = {
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mf16c"),
}

KINDS = tuple(_FLAGS)

_COMPILERS = ("c++", "g++", "clang++")

_log = logging.getLogger(__name__)


def load(source: str, wanted: Compile = "auto") -> ctypes.CDLL | None:
    """Return a library, built if need be; None where it is ``off`` or cannot be had.

    Parameters
    ----------
    source
        One of `SOURCES`.
    wanted
        ``auto`` logs once, as a warning, why it cannot be had.

    Raises
    ------
    KernelsError
        When it is ``on`` and cannot be had.
    """
    if wanted not in ("auto", "on", "off"):
        raise ValueError(f"compile must be 'auto', 'on' or 'off', not {wanted!r}")
    if wanted == "off":
        return None
    found = _found(source)
    if isinstance(found, ctypes.CDLL):
        return found
    if wanted == "on":
        raise KernelsError(found)
    return None


@functools.cache
def _found(source: str) -> ctypes.CDLL | str:
    try:
        # It finds the matrix product, the sine and the threads among what torch has loaded.
        return ctypes.CDLL(str(library(source)))
    except (KernelsError, OSError) as error:
        reason = f"no compiled kernels: {error}"
        _log.warning("%s; the CPU computes the same, more slowly", reason)
        return reason


def library(source: str = "cpu") -> Path:
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
    stem, user = _stem(kind, source), cache.user_folder()
    for folder in filter(None, (_FOLDER, user)):
        if found := cache.find(folder, stem):
            return found
    if user is not None:
        try:
            return build(kind, user, source)
        except OSError as error:
            _log.warning("%s cannot be written to: %s", user, error.strerror)
    # Nowhere to keep it: built anew in each process.
    return build(kind, cache.process_folder(), source)


def _source(name: str) -> Path:
    return _FOLDER / f"{name}.cpp"


def _stem(kind: str, source: str) -> str:
    key = hashlib.sha256(_source(source).read_bytes())
    key.update(" ".join((torch.__version__, kind, *_FLAGS[kind])).encode())
    return f"kernels-{source}-{kind.lower()}-{key.hexdigest()[:16]}"


def build(kind: str, folder: Path, source: str = "cpu") -> Path:
    """Build for a kind of CPU, one of `KINDS`, into ``folder``; KernelsError if that fails."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    stem = _stem(kind, source)
    if compiler is None:
        raise KernelsError(f"{folder / stem} is not there, nor any of {', '.join(_COMPILERS)}")
    torch_folder = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=folder) as own:
        unlinked, linked = Path(own) / "kernels.o", Path(own) / f"{stem}.so"
        defines = ("-DCPU_CAPABILITY=" + kind, "-DCPU_CAPABILITY_" + kind)
        include = ("-I", str(torch_folder / "include"))
        options = ("-O3", "-std=c++20", "-fPIC", "-fopenmp", *_FLAGS[kind], *defines, *include)
        _run(compiler, *options, "-c", str(_source(source)), "-o", str(unlinked))
        # Without -fopenmp: torch has its own copy of that library, and two would compete.
        libraries = ("-L", str(torch_folder / "lib"), "-ltorch_cpu")
        _run(compiler, "-shared", str(unlinked), "-o", str(linked), *libraries)
        return cache.keep(linked, folder, stem)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelsError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")


def main() -> None:
    """Build, and write the paths to standard output."""
    folder = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else _FOLDER
    for kind in KINDS:
        for source in SOURCES:
            sys.stdout.write(f"{build(kind, folder, source)}\n")


if __name__ == "__main__":
    main()
