"""Exchanging the model while requests run, and never for a worse one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.store import ModelStore
from snac_core.store.manifest import MANIFEST, read_manifest
from tests.support.waiting import wait_for

Publish = Callable[..., str]


@pytest.fixture
def publish(
    store: ModelStore, tiny_config: SnacConfig, variant: Callable[..., dict[str, Tensor]]
) -> Publish:
    def publish(seed: int, part: str = "decoder", **how: Any) -> str:
        return store.publish(tiny_config, variant(seed, part), **how)

    return publish


@pytest.fixture
def publish_corrupt(store: ModelStore, publish: Publish) -> Publish:
    """Publish a version and, before anybody can look, flip a byte of its weights."""

    def publish_corrupt(seed: int) -> str:
        version = publish(seed, make_current=False)
        weights = store.path(version) / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-5] ^= 0xFF
        weights.write_bytes(data)
        point_to(store, version)
        return version

    return publish_corrupt


def point_to(store: ModelStore, version: str) -> None:
    temporary = store.root / "pointer"
    temporary.write_text(json.dumps({"version": version, "previous": store.current()}))
    temporary.replace(store.root / "current.json")


@pytest.fixture
def watching(serve: Any, store: ModelStore) -> Iterator[Any]:
    with serve(model_store=store.root, device="cpu", reload_interval=0.05) as running:
        yield running


def current(running: Any) -> str:
    return str(running.http.get("/v1/models/current").json()["version"])


def states(running: Any) -> dict[str, Any]:
    return {model["version"]: model for model in running.http.get("/v1/models").json()["models"]}


def test_the_next_requests_answer_with_a_published_version(
    watching: Any, store: ModelStore, publish: Publish, samples_of: Any, wav_of: Any
) -> None:
    first = store.current()
    assert current(watching) == first
    second = publish(1)
    wait_for(lambda: current(watching) == second)
    answer = watching.http.post("/v1/encode", content=wav_of(samples_of(0.3)))
    assert answer.headers["X-Model-Version"] == second
    assert {version: model["state"] for version, model in states(watching).items()} == {
        first: "available",
        second: "serving",
    }
    assert watching.metric('snac_reload_total{outcome="succeeded"}') == 1
    space = answer.headers["X-Token-Space"]
    assert watching.metric(f'snac_model_info{{token_space="{space}",version="{second}"}}') == 1
    listed = watching.http.get("/metrics").text.splitlines()
    infos = [line for line in listed if line.startswith("snac_model_info{")]
    assert len(infos) == 1
    assert watching.metric(f'snac_model_requests_total{{outcome="ok",version="{second}"}}') >= 1


def test_a_corrupt_version_is_named_and_left_alone_until_it_changes(
    watching: Any, store: ModelStore, publish_corrupt: Publish, tmp_path: Path
) -> None:
    first = current(watching)
    bad = publish_corrupt(2)
    wait_for(lambda: bad in states(watching) and states(watching)[bad]["state"] == "failed")
    assert "sha256" in states(watching)[bad]["reason"]
    assert current(watching) == first
    time.sleep(0.3)  # several looks at the store
    failed = 'snac_reload_total{outcome="failed"}'
    assert watching.metric(failed) == 1

    answer = watching.http.post("/v1/models/reload")
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:snac:problem:reload-failed"
    assert bad in answer.json()["detail"]
    assert watching.metric(failed) == 2

    weights = store.path(bad) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 0xFF
    weights.write_bytes(data)
    wait_for(lambda: current(watching) == bad)
    assert states(watching)[bad]["reason"] is None


def other_golden_codes(folder: Path) -> None:
    manifest = read_manifest(folder)
    golden = tuple(tuple(code ^ 1 for code in level) for level in manifest.golden)
    (folder / MANIFEST).write_bytes(dataclasses.replace(manifest, golden=golden).to_bytes())


def one_weight_fewer(folder: Path) -> None:
    file, manifest = folder / "model.safetensors", read_manifest(folder)
    weights = safetensors.torch.load_file(file)
    weights.popitem()
    safetensors.torch.save_file(weights, file)
    files = {**manifest.files, file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    (folder / MANIFEST).write_bytes(dataclasses.replace(manifest, files=files).to_bytes())


def a_manifest_cut_short(folder: Path) -> None:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:-9])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (other_golden_codes, "codes of the golden clip differ"),
        (one_weight_fewer, "1 missing"),
        (a_manifest_cut_short, "versions/"),
    ],
)
def test_a_version_that_is_not_what_it_was_is_not_served(
    watching: Any, store: ModelStore, publish: Publish, spoil: Callable[[Path], None], said: str
) -> None:
    first = current(watching)
    bad = publish(13, make_current=False)
    spoil(store.path(bad))
    listed = states(watching)[bad]["reason"]
    point_to(store, bad)
    wait_for(lambda: bool(states(watching)[bad]["failed_at"]))
    reason = states(watching)[bad]["reason"]
    assert said in reason
    assert listed in (None, reason)
    # Where the store is on this machine is nobody's business.
    assert str(store.root) not in reason
    assert current(watching) == first


def test_a_damaged_pointer_is_named_once_and_heals(
    watching: Any, store: ModelStore, publish: Publish
) -> None:
    first = current(watching)
    pointer = store.root / "current.json"
    whole = pointer.read_bytes()
    damaged = store.root / "damaged"
    damaged.write_bytes(b"{")
    damaged.replace(pointer)
    wait_for(lambda: "current.json" in states(watching))
    time.sleep(0.3)
    assert watching.metric('snac_reload_total{outcome="failed"}') == 1
    assert current(watching) == first
    pointer.write_bytes(whole)
    wait_for(lambda: "current.json" not in states(watching))


def test_another_token_space_needs_permission(
    watching: Any, publish: Publish, samples_of: Any, wav_of: Any
) -> None:
    first = current(watching)
    foreign = publish(3, "encoder")
    wait_for(lambda: states(watching)[foreign]["state"] == "failed")
    assert "token space" in states(watching)[foreign]["reason"]
    assert current(watching) == first
    old_codes = watching.http.post("/v1/encode", content=wav_of(samples_of(0.3))).json()
    allowed = watching.http.post("/v1/models/reload?allow_token_space_change=true")
    assert allowed.status_code == 200, allowed.text
    assert allowed.json()["version"] == allowed.headers["X-Model-Version"] == foreign
    assert watching.http.post("/v1/decode", json=old_codes).status_code == 409


def test_rollback_returns_and_keeps_the_store_in_step(
    watching: Any, store: ModelStore, publish: Publish
) -> None:
    first = current(watching)
    refused = watching.http.post("/v1/models/rollback")
    assert refused.status_code == 409
    assert "the store has no previous version" in refused.json()["detail"]
    assert str(store.root) not in refused.text
    second = publish(4)
    wait_for(lambda: current(watching) == second)
    answer = watching.http.post("/v1/models/rollback")
    assert answer.status_code == 200, answer.text
    assert answer.json()["version"] == first
    assert store.current() == first
    time.sleep(0.2)
    assert current(watching) == first


def test_a_request_finishes_on_the_model_it_started_on(
    watching: Any, publish: Publish, samples_of: Any, wav_of: Any
) -> None:
    old = watching.service.models.codec
    gate, entered, run = threading.Event(), threading.Event(), old.run

    def held(steps: Any) -> None:
        entered.set()
        assert gate.wait(300)
        run(steps)

    old.run = held
    wav = wav_of(samples_of(0.3))
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(watching.http.post, "/v1/encode", content=wav)
        assert entered.wait(300)
        second = publish(5)
        wait_for(lambda: current(watching) == second)
        late = pool.submit(watching.http.post, "/v1/encode", content=wav)
        gate.set()
        assert early.result().headers["X-Model-Version"] == old.version
        assert late.result().headers["X-Model-Version"] == second
        assert early.result().json()["codes"] == late.result().json()["codes"]


def test_old_weights_go_once_nobody_needs_them(
    watching: Any, publish: Publish, samples_of: Any, wav_of: Any
) -> None:
    watching.http.post("/v1/encode", content=wav_of(samples_of(0.3)))
    old = weakref.ref(watching.service.models.codec)
    second = publish(12)
    wait_for(lambda: current(watching) == second)
    wait_for(lambda: old() is None)


def test_reload_under_load_loses_nothing(
    watching: Any,
    store: ModelStore,
    publish: Publish,
    publish_corrupt: Publish,
    samples_of: Any,
    wav_of: Any,
) -> None:
    seen: Counter[tuple[int, str | None]] = Counter()
    enough = threading.Event()

    def client(seed: int) -> None:
        lengths = random.Random(seed)
        while not enough.is_set():
            wav = wav_of(samples_of(lengths.uniform(0.05, 1.0), seed))
            encoded = watching.http.post("/v1/encode", content=wav)
            decoded = watching.http.post("/v1/decode", content=encoded.content)
            for answer in (encoded, decoded):
                seen[answer.status_code, answer.headers.get("X-Model-Version")] += 1

    versions = [current(watching)]
    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, seed) for seed in range(6)]
        try:
            for seed in (6, 7):
                versions.append(publish(seed))
                wait_for(lambda: seen[200, versions[-1]] > 0)
            bad = publish_corrupt(8)
            wait_for(lambda: states(watching)[bad]["state"] == "failed")
            versions.append(publish(9))
            wait_for(lambda: seen[200, versions[-1]] > 0)
        finally:
            enough.set()
        for one in clients:
            one.result()
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == set(versions)
    assert states(watching)[bad]["state"] == "failed"
    assert states(watching)[versions[-1]]["state"] == "serving"


def test_an_empty_store_is_watched_while_another_model_serves(
    serve: Any, tmp_path: Path, model_ref: str, tiny_config: SnacConfig, variant: Any
) -> None:
    root = tmp_path / "empty"
    with serve(model=model_ref, model_store=root, device="cpu", reload_interval=0.05) as running:
        assert current(running) == ModelStore(Path(model_ref)).current()
        version = ModelStore(root).publish(tiny_config, variant(10))
        wait_for(lambda: current(running) == version)


def test_starting_on_a_corrupt_version_serves_the_one_before(
    serve: Any, store: ModelStore, publish_corrupt: Publish
) -> None:
    first = store.current()
    bad = publish_corrupt(11)
    with serve(model=str(store.root), device="cpu") as running:
        assert current(running) == first
        assert states(running)[bad]["state"] == "failed"
        assert running.http.get("/health/ready").status_code == 200
