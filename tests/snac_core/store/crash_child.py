"""Kill processes at every line in which they change a model store; print what readers find.

    python -m tests.snac_core.store.crash_child FOLDER

All scenarios run in one process, as importing torch takes longer than each of them; whoever is
to die is forked. Prints a JSON object with what was found, by scenario.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from snac_core.model import SNAC
from snac_core.store import ModelStore, manifest, model_store
from snac_core.utils import atomic_files
from tests.support.models import TINY_8KHZ as CONFIG

TOUCHING_DISK = {module.__file__ for module in (shutil, atomic_files, manifest, model_store)}
"""The files in which a process is killed."""

torch.set_num_threads(1)  # OpenMP's threads would not survive a fork.
torch.manual_seed(0)
WEIGHTS = SNAC(CONFIG).state_dict()


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a fork; return its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - whatever it is, the fork must end here
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return child


def killed_at(line: int, work: Callable[[], object]) -> None:
    """Run ``work`` until the ``line``-th line that touches the disk."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in TOUCHING_DISK:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()


def kill_at_every_line(root: Path, act: Callable[[ModelStore], object]) -> list[dict[str, Any]]:
    """Kill ``act`` at its first, second, third ... line, each on a fresh copy of a store.

    Returns
    -------
    list of dict
        What a reader finds each time.
    """
    line, died, found = 0, True, []
    while died:
        line += 1
        store = ModelStore(root / str(line))
        if (root / "before").exists():
            shutil.copytree(root / "before", store.root)
        child = in_child(functools.partial(killed_at, line, functools.partial(act, store)))
        status = os.waitpid(child, 0)[1]
        died = os.WIFSIGNALED(status)
        assert died or status == 0, status
        found.append(
            {
                "versions": [store.verify(version).version for version in store.versions()],
                "listed": [each.version for each in store.list()],
                "current": store.current(),
                "previous": store.previous(),
                "unfinished": len(list(store.root.rglob(".tmp-*"))),
            }
        )
        if line % 30 == 0 or not died:  # What the dead left is in nobody's way.
            store.publish(CONFIG, WEIGHTS)
            store.prune(1, 0.0)
            assert not list(store.root.rglob(".tmp-*"))
        shutil.rmtree(store.root, ignore_errors=True)
    return found


def store_before(top: Path, name: str, published: int) -> Path:
    """Publish some versions to the store that every copy is made of; return its folder."""
    for _ in range(published):
        ModelStore(top / name / "before").publish(CONFIG, WEIGHTS)
    return top / name


def killed_publishing(top: Path, published: int) -> list[dict[str, Any]]:
    """Kill a publisher; it is forked where it begins to touch the disk, with its model built."""
    root = store_before(top, f"publish {published}", published)
    found: list[dict[str, Any]] = []

    class Publisher(ModelStore):
        def _add(self, version: str, contents: Mapping[str, bytes], make_current: bool) -> None:
            found.extend(
                kill_at_every_line(root, lambda store: store._add(version, contents, make_current))
            )

    Publisher(root).publish(CONFIG, WEIGHTS)
    return found


def killed(
    top: Path, name: str, published: int, act: Callable[[ModelStore], object]
) -> list[dict[str, Any]]:
    """Kill ``act`` on a store of ``published`` versions."""
    return kill_at_every_line(store_before(top, name, published), act)


def publish(store: ModelStore, times: int) -> None:
    """Publish again and again."""
    for number in range(times):
        store.publish(CONFIG, WEIGHTS, metrics={"number": number})


def together(top: Path) -> dict[str, Any]:
    """Let four publishers and a reader meet."""
    store = ModelStore(top / "together")
    publishers = {in_child(lambda: publish(store, 3)) for _ in range(4)}
    readings = 0
    while publishers:
        child, status = os.waitpid(-1, os.WNOHANG)
        publishers.discard(child)
        assert status == 0
        if (current := store.current()) is not None:
            store.verify(current)
            readings += 1
        store.list()
    return {
        "versions": [store.verify(version).version for version in store.versions()],
        "current": store.current(),
        "previous": store.previous(),
        "readings": readings,
        "unfinished": len(list(store.root.rglob(".tmp-*"))),
    }


def against_pruning(top: Path) -> dict[str, Any]:
    """Let two publishers and one who removes old versions meet."""
    store = ModelStore(top / "pruning")
    publish(store, 1)
    publishers = {in_child(lambda: publish(store, 5)) for _ in range(2)}
    while publishers:
        child, status = os.waitpid(-1, os.WNOHANG)
        publishers.discard(child)
        assert status == 0
        store.prune(keep=1)
        current = store.current()
        assert current is not None
        store.verify(current)
    return {"versions": len(store.versions())}


def main() -> None:
    """Run every scenario."""
    top = Path(sys.argv[1])
    found = {
        "publish first": killed_publishing(top, 0),
        "publish": killed_publishing(top, 2),
        "roll back": killed(top, "roll back", 2, lambda store: store.roll_back()),
        "prune": killed(top, "prune", 3, lambda store: store.prune(1, 0.0)),
        "together": together(top),
        "against pruning": against_pruning(top),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
