"""One run at a time on one output."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bulk import filesystems
from bulk.errors import OutputError
from snac_core.utils.filesystems import is_url

REFRESH_SECONDS = 20.0
"""How often a run on an object store says that it is alive."""
STALE_SECONDS = 120.0
"""How long after the last sign of life its lock holds no more."""


@contextlib.contextmanager
def locked(place: str, output: str) -> Iterator[None]:
    """Hold the lock file ``place`` of an output while the block runs.

    On a file system the lock ends with its process, however that ends. On an object store, which
    has no locks, it is an object that is written again and again; there a run may begin
    `STALE_SECONDS` after another was killed.

    Raises
    ------
    OutputError
        When another run holds it.
    """
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "began": time.time()}
    if is_url(place):
        with _locked_object(place, output, mine):
            yield
        return
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(output, _holder(Path(place).read_bytes())) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(mine).encode())
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked_object(place: str, output: str, mine: dict[str, Any]) -> Iterator[None]:
    if filesystems.exists(place):
        holder = _holder(filesystems.read_bytes(place))
        # What cannot be read is being written at this moment, by a run that lives.
        if not holder or time.time() - holder.get("alive", 0.0) < STALE_SECONDS:
            raise _in_use(output, holder)
    over = threading.Event()

    def refresh() -> None:
        while not over.wait(REFRESH_SECONDS):
            filesystems.write_bytes(place, json.dumps(mine | {"alive": time.time()}).encode())

    filesystems.write_bytes(place, json.dumps(mine | {"alive": time.time()}).encode())
    thread = threading.Thread(target=refresh, name="output lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        filesystems.remove(place)


def _holder(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _in_use(output: str, holder: dict[str, Any]) -> OutputError:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.get("began", 0.0)))
    return OutputError(
        f"another run is writing to {output}: process {holder.get('pid', '?')} on "
        f"{holder.get('host', '?')}, since {began}"
    )
