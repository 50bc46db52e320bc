from __future__ import annotations

import dataclasses
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import snac_core
from snac_core.config import SnacConfig
from snac_core.errors import ConfigError, ModelError, StoreError
from snac_core.model import SNAC
from snac_core.store import ModelStore, checkpoint, manifest
from tests.support.models import TINY_8KHZ as TINY
from tests.support.upstream import upstream_levels, upstream_model, write_upstream

WITH_ATTENTION = SnacConfig(
    sampling_rate=8000,
    encoder_dim=16,
    encoder_rates=(2, 4),
    decoder_dim=64,
    decoder_rates=(4, 2),
    attn_window_size=4,
    codebook_size=32,
    codebook_dim=4,
    vq_strides=(4, 2, 1),
)


@pytest.fixture(scope="module")
def samples() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(4096).astype(np.float32) * 0.1


def levels(codec: snac_core.Codec, samples: np.ndarray[Any, Any]) -> list[list[int]]:
    (codes,) = codec.encode([samples])
    return [level.tolist() for level in codes.levels]


# Folders and files


@pytest.mark.parametrize("config", [TINY, WITH_ATTENTION])
def test_a_published_folder_loads_and_gives_the_same_codes(
    tmp_path: Path, samples: np.ndarray[Any, Any], config: SnacConfig
) -> None:
    model = write_upstream(tmp_path / "snac_tiny", config)
    codec = snac_core.load(tmp_path / "snac_tiny", device="cpu")
    assert codec.config == config
    assert codec.version.startswith("snac_tiny-")
    assert levels(codec, samples) == upstream_levels(model, samples)

    built = checkpoint.load_model(tmp_path / "snac_tiny").state_dict()
    assert list(built) == list(model.state_dict())
    assert all(torch.equal(value, built[key]) for key, value in model.state_dict().items())


def test_upstream_defaults_have_the_keys_that_are_read(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import snac
    rates, back, strides = (3, 3, 7, 7), (7, 7, 3, 3), (8, 4, 2, 1)
    config = SnacConfig(44100, 64, rates, None, 1536, back, 32, vq_strides=strides)
    with torch.device("meta"):
        theirs, ours = snac.SNAC().state_dict(), SNAC(config).state_dict()
    assert {key: value.shape for key, value in theirs.items()} == {
        key: value.shape for key, value in ours.items()
    }


def test_both_weight_files_are_one_model(tmp_path: Path, samples: np.ndarray[Any, Any]) -> None:
    model = write_upstream(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "a")
    half = {key: value.half() for key, value in model.state_dict().items()}
    (tmp_path / "b" / "a" / "pytorch_model.bin").unlink()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "b" / "a" / "model.safetensors")
    torch_codec, safe_codec = (snac_core.load(tmp_path / each) for each in ("a", "b/a"))
    assert torch_codec.version == safe_codec.version
    assert torch_codec.token_space == safe_codec.token_space
    assert levels(torch_codec, samples) == levels(safe_codec, samples)

    # With both there, safetensors is what is read.
    safetensors.torch.save_file(half, tmp_path / "a" / "model.safetensors")
    assert snac_core.load(tmp_path / "a").version not in (torch_codec.version, "a-")


def test_a_trainer_checkpoint_loads(tmp_path: Path, samples: np.ndarray[Any, Any]) -> None:
    model = upstream_model(TINY)
    path = tmp_path / "best_model.pt"
    content = {
        "config": TINY.to_dict(),
        "model": model.state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "epoch": 3,
    }
    torch.save(content, path)
    codec = snac_core.load(str(path), device="cpu")
    assert codec.version.startswith("best_model-")
    assert levels(codec, samples) == upstream_levels(model, samples)


@pytest.mark.parametrize(
    "content", [{}, {"model": {}}, {"config": None, "model": {}}, [1], torch.zeros(3)]
)
def test_other_torch_files_are_no_trainer_checkpoints(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"other\.pt is not a trainer checkpoint: it needs a"):
        snac_core.load(tmp_path / "other.pt")


def test_a_store_gives_its_current_version_and_its_versions_by_folder(
    tmp_path: Path, samples: np.ndarray[Any, Any]
) -> None:
    store = ModelStore(tmp_path / "models")
    model = upstream_model(TINY)
    torch.manual_seed(8)
    first = store.publish(TINY, model.state_dict())
    second = store.publish(TINY, SNAC(TINY).state_dict(), metrics={"best": 0.2})
    codec = snac_core.load(store.root, device="cpu")
    assert codec.version == second
    assert codec.token_space == store.manifest(second).token_space
    older = snac_core.load(store.path(first), device="cpu")
    assert older.version == first
    assert levels(older, samples) == upstream_levels(model, samples)
    found = checkpoint.read(store.root)
    assert found.manifest == store.manifest(second)

    shutil.copytree(store.path(first), tmp_path / "elsewhere")
    assert snac_core.load(tmp_path / "elsewhere").version == first


def test_a_store_without_a_current_version_is_an_error(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    store.publish(TINY, upstream_model(TINY).state_dict(), make_current=False)
    with pytest.raises(StoreError, match="models has no current version"):
        snac_core.load(store.root)


def test_a_damaged_version_does_not_load(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    path = store.path(store.publish(TINY, upstream_model(TINY).state_dict())) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"model\.safetensors is not the file"):
        snac_core.load(store.root)


def test_a_version_without_its_manifest_does_not_load(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    folder = store.path(store.publish(TINY, upstream_model(TINY).state_dict()))
    (folder / "manifest.json").unlink()
    for ref in (store.root, folder):
        with pytest.raises(StoreError, match=r"manifest\.json cannot be read"):
            snac_core.load(ref)


def test_a_version_that_does_not_make_its_golden_codes_does_not_load(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    mine, theirs = (
        store.path(store.publish(TINY, weights))
        for weights in (upstream_model(TINY).state_dict(), SNAC(TINY).state_dict())
    )
    manifests = [manifest.read_manifest(folder) for folder in (mine, theirs)]
    forged = dataclasses.replace(manifests[0], golden=manifests[1].golden)
    (mine / "manifest.json").write_bytes(forged.to_bytes())
    store.verify(mine.name)
    with pytest.raises(ModelError, match="codes of the golden clip differ"):
        snac_core.load(mine)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("config.json", b"{", ModelError),
        ("config.json", b"[]", ConfigError),
        ("config.json", b'{"samplingrate": 24000}', ConfigError),
        ("config.json", b'{"codebook_size": 32}', ModelError),
        ("pytorch_model.bin", b"", ModelError),
    ],
)
def test_unusable_files_are_named(
    tmp_path: Path, name: str, content: bytes, error: type[Exception]
) -> None:
    write_upstream(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=f"{name}|does not fit"):
        snac_core.load(tmp_path)


def test_a_state_dict_that_is_none_is_refused(tmp_path: Path) -> None:
    write_upstream(tmp_path)
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin holds a list, not a state dict"):
        snac_core.load(tmp_path)


# References that name nothing


def test_what_was_tried_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for ref in ("no/such/model", "runs/best_model.pt", "./model", "../model", "/model", "model"):
        with pytest.raises(ModelError) as raised:
            snac_core.load(ref)
        assert str(raised.value) == (
            f"no model {ref!r}: {Path(ref).absolute()} does not exist; "
            "it is neither 'starter' nor a Hugging Face id such as 'owner/name'"
        )
    # A Path is a path, whatever else it looks like.
    for path in (Path("starter"), Path("owner/name")):
        with pytest.raises(ModelError, match=f"{path} does not exist"):
            snac_core.load(path)


def test_starter_is_the_model_that_comes_with_the_package() -> None:
    folder = Path(snac_core.__file__).with_name("starter")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    codec = snac_core.load("starter", device="cpu")
    assert codec.version == manifest.verify(folder).version
    assert (codec.sample_rate, codec.config.codes_per_frame) == (24000, (1, 2, 4))


def test_a_path_that_exists_goes_before_other_meanings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ref in ("starter", "owner/name"):
        write_upstream(tmp_path / ref)
        assert snac_core.load(ref).version.startswith(ref.split("/")[-1] + "-")


def test_an_empty_folder_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"needs config\.json and model\.safetensors or pytorch_"):
        snac_core.load(tmp_path)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:zero", ""])
def test_devices_that_are_not_there_are_an_error(tmp_path: Path, device: str) -> None:
    write_upstream(tmp_path)
    with pytest.raises(ModelError, match="device"):
        snac_core.load(tmp_path, device=device)
