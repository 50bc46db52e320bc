"""C libraries that print: libmpg123 about frames that it dislikes, libsndfile about SDS files."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import threading
from collections.abc import Iterator


class _Streams:
    """The C library's ``stdout`` and ``stderr``, put aside while anybody asks for it.

    The variables are exchanged, not the file descriptors: Python's own messages, logs and
    tracebacks are written to the descriptors and go on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        # Only glibc lets its variables be written.
        self._variables: list[ctypes.c_void_p] = []
        self._null: int | None = None
        if platform.libc_ver()[0] == "glibc":
            library = ctypes.CDLL(None)
            self._variables += [ctypes.c_void_p.in_dll(library, "stdout")]
            self._variables += [ctypes.c_void_p.in_dll(library, "stderr")]
            library.fopen.restype = ctypes.c_void_p
            self._null = library.fopen(b"/dev/null", b"w")
        self._usual = [variable.value for variable in self._variables]

    def change(self, users: int) -> None:
        """Count those that want it quiet; ``users`` is 1 or -1."""
        with self._lock:
            self._users += users
            if self._null:
                for variable, usual in zip(self._variables, self._usual, strict=True):
                    variable.value = self._null if self._users else usual


_streams = _Streams()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what C libraries print out of the process's stdout and stderr."""
    _streams.change(1)
    try:
        yield
    finally:
        _streams.change(-1)
