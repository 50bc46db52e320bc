"""What the C library does with memory that is freed: keep it, share it, or give it back.

The network's temporaries are tens of megabytes. By default glibc maps each afresh and
returns it on release, and a CPU then spends its time on page faults. And it keeps what threads
free apart for each of them, where many threads each keep what all have needed at one time.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

_GIB = 2**30
_M_ARENA_MAX = -8
"""Of ``mallopt``, as ``malloc.h`` has it."""
_TUNABLES = {
    "hugetlb": 1,  # madvise huge pages: one fault for 2 MiB
    "mmap_threshold": 4 * _GIB,
    "trim_threshold": 16 * _GIB,
    "top_pad": _GIB // 4,
}


def restart_keeping_freed_memory() -> None:
    """Start this program over with the allocator told to reuse memory, once.

    glibc reads its tunables only when a process starts, so that the program, which has done
    nothing yet, replaces itself. Call it first thing in a command's ``main``. Does nothing
    where the C library is not glibc, or where ``GLIBC_TUNABLES`` is already set.
    """
    if "GLIBC_TUNABLES" in os.environ or platform.libc_ver()[0] != "glibc":
        return
    settings = (f"glibc.malloc.{name}={value}" for name, value in _TUNABLES.items())
    os.environ["GLIBC_TUNABLES"] = ":".join(settings)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def share_freed_memory() -> None:
    """Have all threads that start from now on reuse what any of them has freed.

    Call it before there are any. They wait for each other when they allocate, which one that
    computes in buffers of its own does rarely. Does nothing where the C library is not glibc,
    or where ``MALLOC_ARENA_MAX`` is set.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Return to the system what has been freed, such as a model; nothing where glibc is not."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
