"""Old versions are removed."""

from __future__ import annotations

import os
import time

import pytest
from torch import Tensor

from snac_core.errors import StoreError
from snac_core.store import ModelStore
from tests.support.models import TINY_8KHZ as TINY
from tests.support.models import unfinished


def test_pruning_spares_the_newest_the_current_and_the_previous(
    store: ModelStore, weights: dict[str, Tensor]
) -> None:
    versions = [store.publish(TINY, weights, make_current=False) for _ in range(6)]
    store.set_current(versions[1])
    store.set_current(versions[2])
    assert store.prune(keep=2) == [versions[0], versions[3]]
    assert store.versions() == [versions[1], versions[2], versions[4], versions[5]]
    for version in store.versions():
        store.verify(version)
    assert unfinished(store) == []
    assert store.prune(keep=2) == []
    with pytest.raises(StoreError, match="at least 1"):
        store.prune(keep=0)


def test_pruning_clears_what_dead_publishers_left(
    store: ModelStore, weights: dict[str, Tensor]
) -> None:
    version = store.publish(TINY, weights)
    dead = store.root / "versions" / ".tmp-20200101T000000.000000Z-00000000-0a1b2c3d"
    alive = dead.with_name(dead.name.replace("2020", "2021"))
    pointer = store.root / ".tmp-current.json-0a1b2c3d"
    foreign = store.root / "versions" / "notes"
    for folder in (dead, alive, foreign):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    pointer.write_bytes(b"{")
    long_ago = time.time() - 7200
    for path in (dead, pointer, foreign):
        os.utime(path, (long_ago, long_ago))
    assert store.versions() == [version]
    assert store.prune(keep=1) == []
    assert unfinished(store) == [alive.name]
    assert foreign.exists(), "what the store did not make, it does not remove"
