"""Building `snac_core.kernels` ahead of time, for every kind of CPU that it is written for.

python -m snac_core.kernels.build [FOLDER]

Into this package's own folder, unless another is named.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from snac_core.errors import KernelsError

_SOURCE = Path(__file__).with_name("cpu.cpp")

_FLAGS = {
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mf16c"),
}

KINDS = tuple(_FLAGS)

_COMPILERS = ("c++", "g++", "clang++")


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


def main() -> None:
    """Build, and write the paths to standard output."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else __file__).absolute()
    for kind in KINDS:
        path = build(kind, folder.parent if folder.is_file() else folder)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
