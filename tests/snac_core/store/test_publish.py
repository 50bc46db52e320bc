"""What is published, and what must not be."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import resource
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
from snac_core.store import ModelStore
from snac_core.store.golden import check_golden
from snac_core.store.weights import build
from tests.support.models import TINY_8KHZ as TINY
from tests.support.models import random_weights, unfinished


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
    published = [store.publish(TINY, random_weights(TINY, seed)) for seed in (5, 3, 4)]
    assert published == sorted(published) == store.versions()
    assert [manifest.version for manifest in store.list()] == published


def test_a_decoder_fine_tune_keeps_the_token_space(
    store: ModelStore, weights: dict[str, Tensor]
) -> None:
    other = random_weights(TINY, 1)
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
