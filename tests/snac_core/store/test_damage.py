"""Damaged versions and manifests."""

from __future__ import annotations

import hashlib
import re

import pytest
from torch import Tensor

from snac_core.errors import StoreError
from snac_core.store import ModelStore
from snac_core.store.manifest import Manifest, to_json
from tests.support.models import TINY_8KHZ as TINY


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "manifest.json"])
def test_a_flipped_byte_is_found_in_any_file(
    store: ModelStore, weights: dict[str, Tensor], name: str
) -> None:
    version = store.publish(TINY, weights, model_card="# A model\n")
    path = store.path(version) / name
    whole = path.read_bytes()
    for offset in range(0, len(whole), max(1, len(whole) // 50)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << offset % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=re.escape(str(path))):
            store.verify(version)
    path.write_bytes(whole[:-1])
    with pytest.raises(StoreError, match=re.escape(str(path))):
        store.verify(version)
    path.unlink()
    with pytest.raises(StoreError, match=re.escape(str(path))):
        store.verify(version)
    path.write_bytes(whole)
    store.verify(version)


def test_every_byte_of_a_manifest_counts(store: ModelStore, weights: dict[str, Tensor]) -> None:
    whole = (store.path(store.publish(TINY, weights)) / "manifest.json").read_bytes()
    Manifest.from_bytes(whole)
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << offset % 8
        with pytest.raises(StoreError):
            Manifest.from_bytes(bytes(damaged))


def test_a_manifest_with_keys_of_a_later_release_is_read(
    store: ModelStore, weights: dict[str, Tensor]
) -> None:
    manifest = store.manifest(store.publish(TINY, weights))
    body = {**manifest.to_dict(), "licence": "CC0"}
    sealed = to_json({**body, "sha256": hashlib.sha256(to_json(body)).hexdigest()})
    assert Manifest.from_bytes(sealed) == manifest


def test_a_damaged_version_does_not_hide_the_others(
    store: ModelStore, weights: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = store.publish(TINY, weights), store.publish(TINY, weights)
    (store.path(first) / "manifest.json").unlink()
    assert [manifest.version for manifest in store.list()] == [second]
    assert first in caplog.text


def test_a_version_under_another_name_is_refused(
    store: ModelStore, weights: dict[str, Tensor]
) -> None:
    version = store.publish(TINY, weights)
    other = "20200101T000000.000000Z-00000000"
    store.path(version).rename(store.root / "versions" / other)
    with pytest.raises(StoreError, match=f"holds the manifest of {version}"):
        store.verify(other)
