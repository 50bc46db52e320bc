"""How much memory this process may use: the machine's, or what its control groups leave of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_V2, _V1 = "memory.max", "memory.limit_in_bytes"


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the smallest memory limit in bytes that holds for this process.

    Control groups are nested, and each one's limit holds for all below it. A container sees its
    own group as the root of `/sys/fs/cgroup`.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    Bytes; None where neither the machine nor a group says.
    """
    return min([*_machine(), *_limits(root)], default=None)


def _machine() -> list[int]:
    try:
        return [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError):  # not a name, or not a figure, of this system
        return []


def _limits(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text("ascii").splitlines()
    except OSError:
        return
    groups = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _upwards(groups, path, _V2)
        elif "memory" in controllers.split(","):
            yield from _upwards(groups / "memory", path, _V1)


def _upwards(mount: Path, path: str, name: str) -> Iterator[int]:
    folder = mount / path.strip("/")
    for group in (folder, *folder.parents):
        try:
            text = (group / name).read_text("ascii").strip()
        except OSError:
            text = "max"
        if text.isdecimal():
            yield int(text)
        if group == mount:
            return
