"""A log of unreadable recordings; each is named once, by the process that met it first."""

from __future__ import annotations

import csv
import fcntl
import io
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

COLUMNS = ("path", "reason")


class Unreadable:
    """A list of recordings and what is wrong with them.

    Loader workers come and go with every epoch, and ranks are processes of their own. What
    they share is a file: with a path, a recording is logged and written there once, however
    many of them meet it. Without one, each process logs it once.

    Parameters
    ----------
    path
        CSV of ``path`` and ``reason``, appended to; None keeps the list in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known: dict[str, str] = {}
        self._read = 0
        self._rest = b""

    def add(self, recording: str, reason: str) -> None:
        """Log and write down a recording, unless that was done before."""
        reason = " ".join(reason.split())
        recording = os.fsencode(recording).decode("utf-8", "backslashreplace")
        if recording in self._known:
            return
        if self.path is None:
            self._known[recording] = reason
        else:
            try:
                if not self._append(self.path, recording, reason):
                    return
            except OSError as error:
                # As on a full disk, which is no reason to lose more than this list.
                self._known[recording] = reason
                log.warning("%s is not written: %s", self.path, error)
        log.warning("leaving out %s: %s", recording, reason)

    def all(self) -> dict[str, str]:
        """Return the reason for each recording that any process has met so far."""
        if self.path is not None and self.path.exists():
            with self.path.open("rb") as file:
                self._catch_up(file.fileno())
        return dict(self._known)

    def __len__(self) -> int:
        return len(self.all())

    def _append(self, path: Path, recording: str, reason: str) -> bool:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._catch_up(file.fileno())
            if recording in self._known:
                return False
            rows = (
                [(recording, reason)]
                if os.fstat(file.fileno()).st_size
                else [
                    COLUMNS,
                    (recording, reason),
                ]
            )
            text = io.StringIO(newline="")
            csv.writer(text).writerows(rows)
            # One write: a process that is killed leaves a whole line or none.
            os.write(file.fileno(), text.getvalue().encode())
            self._known[recording] = reason
        return True

    def _catch_up(self, descriptor: int) -> None:
        """Read what other processes have written since the last call."""
        while data := os.pread(descriptor, 2**20, self._read):
            self._read += len(data)
            self._rest += data
        lines, newline, self._rest = self._rest.rpartition(b"\n")
        for row in csv.reader(io.StringIO((lines + newline).decode(), newline="")):
            if len(row) == len(COLUMNS) and tuple(row) != COLUMNS:
                self._known.setdefault(row[0], row[1])
