"""The list of a store's versions: many of them, odd ones, and a store that hangs."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from service.models.catalog import Catalog
from snac_core.store import ModelStore
from snac_core.store.manifest import Manifest
from tests.support.waiting import wait_for

MANY = 3000


def test_of_many_versions_only_what_changed_is_read(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.versions()[0]
    manifest = Manifest.from_bytes((store.path(first) / "manifest.json").read_bytes())

    def write(version: str, metrics: dict[str, Any]) -> None:
        changed = dataclasses.replace(manifest, version=version, metrics=metrics)
        (store.root / "versions" / version / "manifest.json").write_bytes(changed.to_bytes())

    names = [f"20210101T000000.{index:06}Z-00000000" for index in range(MANY)]
    for name in names:
        (store.root / "versions" / name).mkdir()
        write(name, {})
    read: list[str] = []
    original = ModelStore.manifest

    def counted(self: ModelStore, version: str) -> Manifest:
        read.append(version)
        return original(self, version)

    monkeypatch.setattr(ModelStore, "manifest", counted)
    catalog = Catalog(store)
    try:
        wait_for(lambda: len(catalog.entries()) == MANY + 1)
        assert len(read) == MANY + 1
        write(names[7], {"loss": 1.0})
        (store.root / "versions" / names[8] / "manifest.json").write_bytes(b"[]")
        found = {entry.version: entry for entry in catalog.entries()}
        assert sorted(read[MANY + 1 :]) == names[7:9]
        changed = found[names[7]].manifest
        assert changed is not None
        assert changed.metrics == {"loss": 1.0}
        assert found[names[8]].manifest is None
        assert found[names[8]].reason
    finally:
        catalog.close()


def test_a_store_that_hangs_is_stale_and_stops_nothing(
    serve: Any, store: ModelStore, samples_of: Any, wav_of: Any
) -> None:
    with serve(
        model_store=store.root, device="cpu", reload_interval=0.1, store_stale_seconds=0.5
    ) as running:
        assert running.http.get("/health/ready").json()["store"] == "fresh"
        version = store.current()
        pointer = store.root / "current.json"
        pointer.unlink()
        os.mkfifo(pointer)
        wait_for(lambda: running.http.get("/health/ready").json()["store"] == "stale")
        assert running.http.get("/health/ready").status_code == 200
        wait_for(lambda: running.metric("snac_store_age_seconds") > 0.5)
        answer = running.http.post("/v1/encode", content=wav_of(samples_of(0.2)))
        assert answer.headers["X-Model-Version"] == version
        assert running.http.get("/v1/models").status_code == 200
