"""Files of models that nobody vouches for: numbers only, and no more of them than they say."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from snac_core.config import MOST, SnacConfig
from snac_core.errors import ConfigError, ModelError, SnacError, StoreError
from snac_core.model import SNAC
from snac_core.store import ModelStore, checkpoint
from snac_core.store.manifest import Manifest, read_manifest
from tests.support.models import TINY


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return SNAC(TINY).state_dict()


def save(path: Path, model: Any, config: Any = None) -> Path:
    torch.save({"config": TINY.to_dict() if config is None else config, "model": model}, path)
    return path


def test_a_number_that_says_it_is_a_billion_is_refused_before_it_is_copied(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    name, value = next(iter(weights.items()))
    wide = torch.zeros(1).expand(2**30)
    same_shape = torch.zeros(1).expand(value.shape)
    for lie in (wide, same_shape):
        path = save(tmp_path / "best_model.pt", {**weights, name: lie})
        with pytest.raises(ModelError, match=name):
            checkpoint.read(path)
    tracemalloc.start()
    with pytest.raises(ModelError, match=name):
        checkpoint.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


@pytest.mark.parametrize(
    "lie",
    [
        torch.zeros(3, device="meta"),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, dtype=torch.complex64),
        "text",
        [0.0],
    ],
    ids=["meta", "sparse", "complex", "text", "list"],
)
def test_what_is_no_plain_tensor_is_a_model_error(
    tmp_path: Path, weights: dict[str, torch.Tensor], lie: Any
) -> None:
    name = next(iter(weights))
    path = save(tmp_path / "best_model.pt", {**weights, name: lie})
    with pytest.raises(ModelError):
        checkpoint.read(path)


@pytest.mark.parametrize("config", [{1: 2}, {"sampling_rate": "x"}, {"vq_strides": [None]}, {}])
def test_a_checkpoint_with_an_odd_configuration_is_our_error(tmp_path: Path, config: Any) -> None:
    with pytest.raises(SnacError):
        checkpoint.read(save(tmp_path / "best_model.pt", {3: torch.zeros(1)}, config))


def test_mutated_checkpoints_raise_our_errors_only(tmp_path: Path) -> None:
    numbers = random.Random(0)
    path = save(tmp_path / "best_model.pt", {"encoder.block.0.bias": torch.zeros(8)})
    original = path.read_bytes()
    for _ in range(400):
        data = bytearray(original)
        for _ in range(numbers.randint(1, 6)):
            data[numbers.randrange(len(data))] = numbers.randrange(256)
        path.write_bytes(data)
        with pytest.raises(SnacError):
            checkpoint.read(path)


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "best_model.pt", {"zeros": torch.zeros(2**18)})
    with zipfile.ZipFile(path) as stored:
        contents = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in contents.items():
            packed.writestr(name, data)
    with pytest.raises(ModelError, match="it is compressed"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    "name", ["best_model.pt", "folder/config.json", "folder/model.safetensors"]
)
def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.json").write_text(json.dumps(TINY.to_dict()))
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "folder/model.safetensors").touch()
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    ref = tmp_path / name if name.endswith(".pt") else tmp_path / "folder"
    with pytest.raises(ModelError, match="not a regular file"):
        checkpoint.read(ref)


@pytest.mark.parametrize("name", sorted(MOST))
def test_a_configuration_has_upper_bounds(name: str) -> None:
    value = MOST[name] + 1
    given: Any = [value] if name.endswith(("rates", "strides")) else value
    with pytest.raises(ConfigError, match=f"{name} may be at most {MOST[name]}, not {value}"):
        SnacConfig.from_dict({name: given})


def test_a_configuration_that_multiplies_out_is_refused() -> None:
    for values in (
        {"encoder_dim": 2048},
        {"encoder_rates": [16] * 6, "decoder_rates": [16] * 6, "encoder_dim": 1},
        {"vq_strides": [1] * 9},
    ):
        with pytest.raises(ConfigError):
            SnacConfig.from_dict(values)


def reseal(folder: Path, **values: Any) -> None:
    body = {**json.loads((folder / "manifest.json").read_bytes()), **values}
    del body["sha256"]
    raw = json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
    body["sha256"] = hashlib.sha256(raw).hexdigest()
    raw = json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
    (folder / "manifest.json").write_bytes(raw)


def test_a_token_space_is_what_the_weights_give(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    store = ModelStore(tmp_path / "models")
    version = store.publish(TINY, weights)
    assert checkpoint.read(store.root).token_space == store.manifest(version).token_space
    reseal(store.path(version), token_space="0123456789ab")
    assert store.verify(version).token_space == "0123456789ab"
    with pytest.raises(StoreError, match=r"says token space '0123456789ab', and the weights give"):
        checkpoint.read(store.root)


@pytest.mark.parametrize(
    "values",
    [
        {"created": 5},
        {"token_space": None},
        {"parent": []},
        {"files": {"config.json": 1}},
        {"metrics": []},
        {"golden": [[0.5]]},
        {"golden": 3},
    ],
    ids=str,
)
def test_a_sealed_manifest_that_makes_no_sense_is_a_store_error(
    tmp_path: Path, weights: dict[str, torch.Tensor], values: dict[str, Any]
) -> None:
    store = ModelStore(tmp_path / "models")
    good = store.publish(TINY, weights)
    odd = "20200101T000000.000000Z-00000000"
    shutil.copytree(store.path(good), store.path(good).parent / odd)
    reseal(store.path(odd), version=odd, **values)
    with pytest.raises(StoreError, match="not a manifest"):
        store.manifest(odd)
    assert [manifest.version for manifest in store.list()] == [good]


def test_a_seal_covers_every_byte(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    store = ModelStore(tmp_path / "models")
    raw = (store.path(store.publish(TINY, weights)) / "manifest.json").read_bytes()
    assert Manifest.from_bytes(raw)
    for index in range(0, len(raw), 37):
        changed = bytearray(raw)
        changed[index] ^= 1
        with pytest.raises(StoreError):
            Manifest.from_bytes(bytes(changed))


def test_weights_cut_short_in_place_kill_nobody(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    store = ModelStore(tmp_path / "models")
    version = store.publish(TINY, weights)
    found = checkpoint.read(store.root)
    os.truncate(store.path(version) / "model.safetensors", 0)
    assert all(torch.equal(found.weights[key], value) for key, value in weights.items())
    assert read_manifest(store.path(version)).version == version
