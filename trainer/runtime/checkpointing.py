"""Atomic checkpoint writing: a reader finds the old file or the new one, never half of one.

A thread writes them while training continues.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snac_core.utils import atomic_files
from trainer.errors import TrainerError

log = logging.getLogger(__name__)

BEST = "best_model.pt"
LATEST = "checkpoint_latest.pt"
_OF_EPOCH = re.compile(r"checkpoint_epoch(\d+)\.pt")


def of_epoch(epoch: int) -> str:
    """Return the name of the checkpoint that ends ``epoch``."""
    return f"checkpoint_epoch{epoch}.pt"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder`` that a run can go on from, the newest first."""
    found = [path for path in folder.glob("checkpoint_*.pt") if path.is_file()]
    known = [path for path in found if path.name == LATEST or _OF_EPOCH.fullmatch(path.name)]
    return sorted(known, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def save(path: Path, contents: Mapping[str, Any]) -> None:
    """Write ``contents`` with `torch.save`, then move it into place.

    Raises
    ------
    OSError
        When the disk is full, say; what ``path`` held before is then still there.
    """
    unfinished = path.with_name(f"{atomic_files.TEMPORARY}{path.name}")
    try:
        with unfinished.open("wb") as file:
            torch.save(dict(contents), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        atomic_files.sync(path.parent)
    except RuntimeError as error:
        # PyTorch's writer hides what the file said.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        unfinished.unlink(missing_ok=True)


class _Asked(NamedTuple):
    """What is to be saved, and when that was asked for, in ns since 1970."""

    contents: Mapping[str, Any]
    at: int


class Writer:
    """Saves in the background, one checkpoint at a time.

    One that could not be written is tried again before the next, and when this is closed. A
    checkpoint is dated by when it was asked for, so that one that is late is not the newest.

    Parameters
    ----------
    keep
        How many ``checkpoint_epoch{N}.pt`` stay, the newest; None for all.

    Attributes
    ----------
    failures
        Saves that failed so far. Each is logged, and the training goes on.
    """

    def __init__(self, keep: int | None = None) -> None:
        self.keep, self.failures = keep, 0
        self._thread: threading.Thread | None = None
        self._failed: dict[Path, OSError | RuntimeError] = {}
        self._kept: dict[Path, _Asked] = {}

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Wait for the last save, which may be an error of its own if there is no other."""
        if kind is None:
            self.close()
        else:
            self.wait()
            self._retry()

    def save(self, path: Path, contents: Mapping[str, Any]) -> None:
        """Copy ``contents`` and save them at ``path``, having waited for the save before."""
        self.wait()
        asked = _Asked(copied_to_cpu(contents), time.time_ns())
        self._thread = threading.Thread(target=self._save, args=(path, asked), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until what was to be saved is saved, or could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def saved(self, path: Path) -> bool:
        """Wait, and return whether the last save at ``path`` went well."""
        self.wait()
        return path not in self._failed

    def close(self) -> None:
        """Wait for the last save, and try once more what could not be saved.

        Raises
        ------
        TrainerError
            When the last save at any path still fails, with the reason.
        """
        self.wait()
        self._retry()
        if self._failed:
            said = "; ".join(f"{path}: {error}" for path, error in self._failed.items())
            raise TrainerError(f"not saved: {said}")

    def _save(self, path: Path, asked: _Asked) -> None:
        self._kept.pop(path, None)
        self._retry()
        self._write(path, asked)

    def _retry(self) -> None:
        for path, asked in list(self._kept.items()):
            self._write(path, asked)

    def _write(self, path: Path, asked: _Asked) -> None:
        try:
            save(path, asked.contents)
            os.utime(path, ns=(asked.at, asked.at))
        except (OSError, RuntimeError) as error:
            self.failures += 1
            self._failed[path] = error
            if _OF_EPOCH.fullmatch(path.name):
                # One epoch's is enough to go on from, and memory for more there may not be.
                for other in [one for one in self._kept if _OF_EPOCH.fullmatch(one.name)]:
                    del self._kept[other]
            self._kept[path] = asked
            log.error("%s is not saved (failure %d): %s", path, self.failures, error)
            return
        self._failed.pop(path, None)
        self._kept.pop(path, None)
        if self.keep is not None and _OF_EPOCH.fullmatch(path.name):
            prune(path.parent, self.keep)


def prune(folder: Path, keep: int) -> None:
    """Remove all ``checkpoint_epoch{N}.pt`` in ``folder`` but the ``keep`` newest.

    By date: a run that went on from an older epoch has others with higher numbers around it.
    """
    found = [path for path in checkpoints(folder) if _OF_EPOCH.fullmatch(path.name)]
    for path in found[keep:]:
        try:
            path.unlink()
        except OSError as error:
            log.warning("an old checkpoint stays: %s", error)


def copied_to_cpu(thing: Any) -> Any:
    """Return ``thing`` with every tensor in its mappings, lists and tuples copied to the CPU."""
    if isinstance(thing, Tensor):
        return thing.detach().to("cpu", copy=True)
    if isinstance(thing, Mapping):
        return {key: copied_to_cpu(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [copied_to_cpu(value) for value in thing]
    if type(thing) is tuple:
        return tuple(copied_to_cpu(value) for value in thing)
    return thing
