"""Which version is current."""

from __future__ import annotations

import pytest
from torch import Tensor

from snac_core.errors import StoreError
from snac_core.store import ModelStore
from tests.support.models import TINY_8KHZ as TINY


def test_an_empty_store_has_no_version(store: ModelStore) -> None:
    assert store.current() is store.previous() is None
    assert store.versions() == []
    assert store.list() == []
    assert not store.root.exists(), "looking changes nothing"


def test_current_moves_and_rolls_back(store: ModelStore, weights: dict[str, Tensor]) -> None:
    first = store.publish(TINY, weights)
    with pytest.raises(StoreError, match="no previous version"):
        store.roll_back()
    second = store.publish(TINY, weights)
    third = store.publish(TINY, weights, make_current=False)
    assert (store.current(), store.previous()) == (second, first)
    store.set_current(third)
    assert (store.current(), store.previous()) == (third, second)
    store.set_current(third)
    assert store.previous() == second, "making the current version current again is no change"
    assert store.roll_back() == second
    assert (store.current(), store.previous()) == (second, third)
    assert store.roll_back() == third


def test_a_damaged_version_does_not_become_current(
    store: ModelStore, weights: dict[str, Tensor]
) -> None:
    first, second = store.publish(TINY, weights), store.publish(TINY, weights)
    (store.path(first) / "model.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        store.roll_back()
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        store.set_current(first)
    assert store.current() == second


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b'{"version": null, "previous": null}',
        b'{"version": "../../etc", "previous": null}',
        b'{"version": "20261122T141530.123456Z-3fa9c1d2", "previous": "x"}',
    ],
)
def test_a_damaged_pointer_is_an_error(
    store: ModelStore, weights: dict[str, Tensor], content: bytes
) -> None:
    version = store.publish(TINY, weights)
    (store.root / "current.json").write_bytes(content)
    for look in (store.current, store.previous, store.roll_back, lambda: store.prune(keep=1)):
        with pytest.raises(StoreError, match=r"current\.json"):
            look()
    assert store.versions() == [version]
    (store.root / "current.json").unlink()
    store.set_current(version)
    assert store.current() == version


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../models",
        "/etc",
        ".tmp-20261122T141530.123456Z-3fa9c1d2",
        "20261122T141530.123456Z-3fa9c1d2/../../..",
        "20261122T141530.123456Z-3fa9c1d2\n",
        "２0261122T141530.123456Z-3fa9c1d2",
    ],
)
def test_names_that_are_no_version_ids_are_refused(
    store: ModelStore, weights: dict[str, Tensor], name: str
) -> None:
    store.publish(TINY, weights)
    for call in (store.path, store.manifest, store.verify, store.set_current):
        with pytest.raises(StoreError, match="not a version id"):
            call(name)


def test_an_absent_version_is_named(store: ModelStore) -> None:
    with pytest.raises(StoreError, match=r"models holds no version 20261122T141530\.123456Z-3f"):
        store.verify("20261122T141530.123456Z-3fa9c1d2")
