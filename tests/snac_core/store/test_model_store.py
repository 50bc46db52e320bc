from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.errors import ModelError, StoreError
from snac_core.model import SNAC
from snac_core.store import ModelStore
from snac_core.store.golden import check_golden
from snac_core.store.manifest import Manifest, to_json
from snac_core.store.weights import build

TINY = SnacConfig(
    sampling_rate=8000,
    encoder_dim=4,
    encoder_rates=(4, 8),
    decoder_dim=16,
    decoder_rates=(8, 4),
    codebook_size=64,
    codebook_dim=4,
    vq_strides=(2, 1),
)


def model_weights(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return SNAC(TINY).state_dict()


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return model_weights()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def unfinished(store: ModelStore) -> list[str]:
    return [path.name for path in store.root.rglob(".tmp-*")]


# What a version is


def test_published_version_holds_what_it_says(
    store: ModelStore, weights: dict[str, Tensor]
) -> None:
    version = store.publish(
        TINY,
        weights,
        metrics={"stage 1": {"best": 0.25}},
        parent="hubertsiuzdak/snac_24khz",
        trainer_config={"learning_rate": 1e-4},
        model_card="# A model\n",
    )
    folder = store.path(version)
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}", version)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]
    assert SnacConfig.from_dict(json.loads((folder / "config.json").read_text())) == TINY

    manifest = store.verify(version)
    assert manifest == store.manifest(version)
    assert manifest.version == version
    assert sorted(manifest.files) == ["README.md", "config.json", "model.safetensors"]
    assert manifest.metrics == {"stage 1": {"best": 0.25}}
    assert manifest.parent == "hubertsiuzdak/snac_24khz"
    assert (
        manifest.trainer_config_hash
        != store.manifest(
            store.publish(TINY, weights, trainer_config={"learning_rate": 2e-4})
        ).trainer_config_hash
    )
    check_golden(Codec(build(TINY, weights), version="", token_space=""), manifest.golden)


def test_versions_sort_by_time(store: ModelStore) -> None:
    published = [store.publish(TINY, model_weights(seed)) for seed in (5, 3, 4)]
    assert published == sorted(published) == store.versions()
    assert [manifest.version for manifest in store.list()] == published


def test_a_decoder_fine_tune_keeps_the_token_space(
    store: ModelStore, weights: dict[str, Tensor]
) -> None:
    other = model_weights(seed=1)
    decoder_only = {k: other[k] if k.startswith("decoder.") else v for k, v in weights.items()}
    spaces = [
        store.manifest(store.publish(TINY, each)).token_space
        for each in (weights, decoder_only, other)
    ]
    assert spaces[0] == spaces[1] != spaces[2]


def test_a_new_version_is_readable_by_whom_the_umask_allows(
    store: ModelStore, weights: dict[str, Tensor]
) -> None:
    # A trainer and a service often run as different users.
    mask = os.umask(0o022)
    try:
        folder = store.path(store.publish(TINY, weights))
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


# Which version is current


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


# Damage


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


# Publishing what must not be published


def test_weights_that_do_not_fit_are_not_published(
    store: ModelStore, weights: dict[str, Tensor]
) -> None:
    broken = {**weights, "quantizer.quantizers.0.codebook.weight": torch.full((64, 4), math.nan)}
    for bad in ({}, broken):
        with pytest.raises(ModelError, match=r"missing|not finite"):
            store.publish(TINY, bad)
    with pytest.raises(ModelError, match="of another shape"):
        store.publish(dataclasses.replace(TINY, codebook_size=32), weights)
    assert not store.root.exists()


@pytest.mark.parametrize("metrics", [{"loss": math.nan}, {"loss": torch.zeros(1)}])
def test_metrics_that_json_cannot_hold_are_refused(
    store: ModelStore, weights: dict[str, Tensor], metrics: dict[str, Any]
) -> None:
    with pytest.raises(StoreError, match="cannot hold this"):
        store.publish(TINY, weights, metrics=metrics)
    assert not store.root.exists()


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Make every write past ``size`` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 300, 10_000])
def test_a_full_disk_leaves_the_store_whole(
    store: ModelStore, weights: dict[str, Tensor], room: int
) -> None:
    version = store.publish(TINY, weights)
    with (
        files_limited_to(room),
        pytest.raises(StoreError, match=r"models: cannot publish .*: .*File too large"),
    ):
        store.publish(TINY, weights)
    assert store.versions() == [version]
    assert store.current() == version
    assert unfinished(store) == []
    store.verify(version)

    second = store.publish(TINY, weights)
    with files_limited_to(0), pytest.raises(StoreError, match="cannot be replaced"):
        store.roll_back()
    assert store.current() == second
    assert unfinished(store) == []


def test_a_root_that_cannot_be_written_is_an_error(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot publish"):
        ModelStore(tmp_path / "file" / "models").publish(TINY, weights)


# Pruning


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


# Processes that die, and processes that meet


# All in one process, as importing torch takes longer than each of these.
SUPPORT = """
import json, os, shutil, signal, sys
from pathlib import Path
import torch
from snac_core.config import SnacConfig
from snac_core.model import SNAC
from snac_core.store import ModelStore, manifest, model_store
from snac_core.utils import atomic_files

torch.set_num_threads(1)  # OpenMP's threads would not survive a fork.
config = SnacConfig.from_dict(CONFIG)
torch.manual_seed(0)
weights = SNAC(config).state_dict()
top = Path(sys.argv[1])

def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return child
""".replace("CONFIG", repr(TINY.to_dict()))


# Does something to a fresh copy of the same store again and again, killed at its first, second,
# third ... line in the code that touches the disk, and returns what a reader finds each time.
# Publishing forks where that code begins, so that the model is built once.
KILL_AT_EVERY_LINE = """
touching_disk = {m.__file__ for m in (
    shutil, atomic_files, manifest, model_store)}

def killed_at(line, work):
    seen = 0
    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_filename not in touching_disk:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    work()

def kill_at_every_line(root, act):
    line, died, found = 0, True, []
    while died:
        line += 1
        store = ModelStore(root / str(line))
        if (root / "before").exists():
            shutil.copytree(root / "before", store.root)
        child = in_child(lambda: killed_at(line, lambda: act(store)))
        status = os.waitpid(child, 0)[1]
        died = os.WIFSIGNALED(status)
        assert died or status == 0, status
        found.append({
            "versions": [store.verify(version).version for version in store.versions()],
            "listed": [manifest.version for manifest in store.list()],
            "current": store.current(),
            "previous": store.previous(),
            "unfinished": len(list(store.root.rglob(".tmp-*"))),
        })
        if line % 30 == 0 or not died:  # The dead are in nobody's way.
            store.publish(config, weights)
            store.prune(1, 0.0)
            assert not list(store.root.rglob(".tmp-*"))
        shutil.rmtree(store.root, ignore_errors=True)
    return found

def before(name, published):
    for _ in range(published):
        ModelStore(top / name / "before").publish(config, weights)
    return top / name

def killed_publishing(published):
    root, found = before(f"publish {published}", published), []
    class Publisher(ModelStore):
        def _add(self, *arguments):
            found.extend(kill_at_every_line(root, lambda store: store._add(*arguments)))
    Publisher(root).publish(config, weights)
    return found

def killed(name, published, act):
    return kill_at_every_line(before(name, published), act)
"""

MEETING = """
def publish(store, times):
    for number in range(times):
        store.publish(config, weights, metrics={"number": number})

def together():
    store = ModelStore(top / "together")
    publishers = {in_child(lambda: publish(store, 3)) for _ in range(4)}
    readings = 0
    while publishers:
        child, status = os.waitpid(-1, os.WNOHANG)
        publishers.discard(child)
        assert status == 0
        if store.current() is not None:
            store.verify(store.current())
            readings += 1
        store.list()
    return {
        "versions": [store.verify(version).version for version in store.versions()],
        "current": store.current(),
        "previous": store.previous(),
        "readings": readings,
        "unfinished": len(list(store.root.rglob(".tmp-*"))),
    }

def against_pruning():
    store = ModelStore(top / "pruning")
    publish(store, 1)
    publishers = {in_child(lambda: publish(store, 5)) for _ in range(2)}
    while publishers:
        child, status = os.waitpid(-1, os.WNOHANG)
        publishers.discard(child)
        assert status == 0
        store.prune(keep=1)
        store.verify(store.current())
    return {"versions": len(store.versions())}

print(json.dumps({
    "publish first": killed_publishing(0),
    "publish": killed_publishing(2),
    "roll back": killed("roll back", 2, lambda store: store.roll_back()),
    "prune": killed("prune", 3, lambda store: store.prune(1, 0.0)),
    "together": together(),
    "against pruning": against_pruning(),
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What readers found, by scenario."""
    top = tmp_path_factory.mktemp("stores")
    done = subprocess.run(
        [sys.executable, "-c", SUPPORT + KILL_AT_EVERY_LINE + MEETING, str(top)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    scenarios: dict[str, Any] = json.loads(done.stdout)
    return scenarios


@pytest.mark.parametrize(("scenario", "published"), [("publish first", 0), ("publish", 2)])
def test_a_publisher_killed_at_any_line_leaves_a_whole_store(
    found: dict[str, Any], scenario: str, published: int
) -> None:
    old = found[scenario][0]["versions"]
    assert len(old) == published
    for each in found[scenario]:
        assert each["listed"] == each["versions"]
        assert each["versions"][:published] == old
        assert len(each["versions"]) <= published + 1
        if each["current"] in old or each["current"] is None:
            assert each["previous"] == found[scenario][0]["previous"]
        else:
            assert each["current"] == each["versions"][-1]
            assert each["previous"] == found[scenario][0]["current"]
    # The kills reached every phase: before, while writing, renamed, and current.
    phases = [
        (each["unfinished"] > 0, len(each["versions"]) - published, each["current"] in old)
        for each in found[scenario]
    ]
    assert (True, 0, bool(old)) in phases
    assert (False, 1, bool(old)) in phases
    assert phases[-1] == (False, 1, False)


def test_a_roll_back_killed_at_any_line_points_somewhere(found: dict[str, Any]) -> None:
    first, second = found["roll back"][0]["versions"]
    pointers = [(each["current"], each["previous"]) for each in found["roll back"]]
    assert set(pointers) == {(second, first), (first, second)}
    assert pointers[-1] == (first, second)
    assert all(each["listed"] == [first, second] for each in found["roll back"])


def test_a_pruning_killed_at_any_line_removes_whole_versions(found: dict[str, Any]) -> None:
    old = found["prune"][0]["versions"]
    for each in found["prune"]:
        assert each["listed"] == each["versions"]
        assert (each["current"], each["previous"]) == (old[2], old[1])
    assert {len(each["versions"]) for each in found["prune"]} == {3, 2}


def test_publishers_that_meet_lose_nothing(found: dict[str, Any]) -> None:
    met = found["together"]
    assert len(met["versions"]) == 12
    assert met["current"] in met["versions"]
    assert met["previous"] in met["versions"]
    assert met["previous"] != met["current"]
    assert met["readings"] > 0
    assert met["unfinished"] == 0


def test_pruning_never_takes_a_version_that_is_being_published(found: dict[str, Any]) -> None:
    assert 2 <= found["against pruning"]["versions"] <= 4


def test_everything_is_on_disk_before_it_has_its_name(
    store: ModelStore, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(TINY, weights)
    steps: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def recorded_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(("sync", re.sub(r"\.tmp-.*?(/|$)", r"unfinished\1", path.name)))
        fsync(descriptor)

    def recorded_rename(source: Path, target: Path) -> None:
        steps.append(("rename", Path(target).parent.name))
        rename(source, target)

    def recorded_replace(source: Path, target: Path) -> None:
        steps.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    monkeypatch.setattr(os, "replace", recorded_replace)
    store.publish(TINY, weights)
    assert steps == [
        ("sync", "config.json"),
        ("sync", "model.safetensors"),
        ("sync", "manifest.json"),
        ("sync", "unfinished"),
        ("rename", "versions"),
        ("sync", "versions"),
        ("sync", "unfinished"),
        ("replace", "current.json"),
        ("sync", "models"),
    ]
