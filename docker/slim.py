"""Remove from an environment what its programs never read: ``python slim.py [KEPT ...]``.

Wheels bring tests, headers, static libraries and programs for building. A name of `GROUPS` keeps
that group: torch.compile needs the headers.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

GROUPS: dict[str, tuple[str, ...]] = {
    "tests": (
        "*/tests",
        "*/*/tests",
        "*/*/*/tests",
        "torch/test",
        "torch/lib/*test*.so",
    ),
    "headers": (
        "torch/include",
        "torch/share",
        "numpy/*/include",
        "pyarrow/include",
        "pyarrow/src",
        "*/*.pxd",
    ),
    "static": ("*.a", "*/lib/*.a", "*/*/lib/*.a"),
    "programs": ("torch/bin/[!t]*", "torch/bin/t[!o]*"),
    "pip": ("pip", "pip-*"),
    "setuptools": ("setuptools", "setuptools-*", "pkg_resources", "_distutils_hack", "distutils-*"),
}
"""What is removed from ``site-packages``, by what it is for."""


def slim(folder: Path, kept: Iterable[str] = ()) -> int:
    """Remove every group but those kept from ``folder``; returns the bytes that are gone."""
    unknown = set(kept) - GROUPS.keys()
    if unknown:
        raise SystemExit(f"slim.py: no group {', '.join(sorted(unknown))}; {', '.join(GROUPS)}")
    gone = 0
    for group in GROUPS.keys() - set(kept):
        for pattern in GROUPS[group]:
            for path in sorted(folder.glob(pattern)):
                files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
                gone += sum(file.lstat().st_size for file in files)
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
    return gone


if __name__ == "__main__":
    freed = slim(Path(sysconfig.get_path("purelib")), sys.argv[1:])
    sys.stdout.write(f"{freed / 2**20:.0f} MiB removed\n")
