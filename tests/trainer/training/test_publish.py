from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import snac_core
from snac_core.errors import ModelError
from snac_core.store import ModelStore
from snac_core.store.identity import token_space
from tests.support.models import TINY, random_model
from tests.trainer.conftest import voice
from trainer.errors import TrainerError
from trainer.training.publish import publish


def checkpoint(path: Path, **changes: Any) -> Path:
    content = {
        "config": TINY.to_dict(),
        "model": random_model(TINY, seed=3).state_dict(),
        "metrics": {"best_val_loss": 0.5},
        "train_config": {"learning_rate": 1e-4},
        "base": "snac_24khz-01234567",
        "epoch": 1,
        "step": 10,
    }
    torch.save({**content, **changes}, path)
    return path


def test_from_training_to_a_served_version_in_the_token_space_of_its_base(
    trained: dict[str, Any], base: ModelStore, tmp_path: Path
) -> None:
    best = Path(trained["output_dir"]) / "best_model.pt"
    store = ModelStore(tmp_path / "store")
    store.publish(TINY, random_model(TINY, seed=9).state_dict())
    card = tmp_path / "card.md"
    card.write_text("# A model\n")
    version = publish(best, store.root, model_card=card)

    assert store.current() == version
    manifest = store.verify(version)
    first = base.verify(str(base.current()))
    assert manifest.parent == first.version, "what it was trained from, not what it replaces"
    assert manifest.token_space == first.token_space
    assert manifest.metrics["improvement"] > 0
    assert manifest.trainer_config_hash is not None
    assert (store.path(version) / "README.md").read_text() == "# A model\n"

    old, new = snac_core.load(base.root, "cpu"), snac_core.load(store.root, "cpu")
    samples = voice(0.5, 7)
    assert old.encode([samples]) == new.encode([samples])
    assert new.token_space == old.token_space


def test_a_model_from_nothing_has_no_parent(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    version = publish(checkpoint(tmp_path / "a.pt", base=None), store.root)
    assert store.manifest(version).parent is None


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    path = checkpoint(tmp_path / "a.pt")
    full, half = publish(path, store.root), publish(path, store.root, half=True)
    sizes = [(store.path(one) / "model.safetensors").stat().st_size for one in (full, half)]
    assert 1.8 < sizes[0] / sizes[1] < 2.2
    rounded = {name: value.half() for name, value in torch.load(path)["model"].items()}
    assert store.manifest(half).token_space == token_space(TINY, rounded)
    snac_core.load(store.root, "cpu")


def test_what_is_no_checkpoint_is_refused_and_the_store_untouched(tmp_path: Path) -> None:
    store = tmp_path / "store"
    damaged = checkpoint(tmp_path / "damaged.pt")
    damaged.write_bytes(damaged.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"damaged\.pt is no file that torch\.save wrote"):
        publish(damaged, store)
    with pytest.raises(ModelError, match=r"no model .*none\.pt"):
        publish(tmp_path / "none.pt", store)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match=r"list\.pt is not a trainer checkpoint"):
        publish(tmp_path / "list.pt", store)
    bigger = {**TINY.to_dict(), "encoder_dim": 16}
    with pytest.raises(ModelError, match="of another shape"):
        publish(checkpoint(tmp_path / "b.pt", config=bigger), store)
    with pytest.raises(TrainerError, match="cannot read the model card"):
        publish(checkpoint(tmp_path / "c.pt"), store, model_card=tmp_path / "none.md")
    assert not store.exists()
