from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from snac_core.errors import StoreError
from snac_core.store import ModelStore
from snac_core.store.manifest import MANIFEST, Manifest
from tests.support.models import TINY, TINY_ATTENTION, random_model
from tests.trainer.commands import rows
from trainer import config as configuration
from trainer.runtime.checkpointing import Writer
from trainer.runtime.distributed import World
from trainer.runtime.stopping import StopRequest
from trainer.training.loop import TrainingRun, train
from trainer.training.publish import PublishGate, make_current

CPU = torch.device("cpu")


def figures(*losses: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(losses, dtype=torch.float64)}


def test_what_is_no_better_than_what_it_would_replace_is_not_published(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What this run makes is better than its base, and not so good as what another has published.
    better = train(configuration.parse({**settings, "max_steps": 12}), CPU)
    store = ModelStore(tmp_path / "store")
    content = torch.load(better, weights_only=True)
    there = store.publish(TINY, content["model"])
    settings |= {"output_dir": str(tmp_path / "second"), "max_steps": 2}
    with caplog.at_level(logging.INFO):
        worse = train(configuration.parse({**settings, "publish_to": str(store.root)}), CPU)
    assert store.versions() == [there]
    mine = torch.load(worse, weights_only=True)["metrics"]
    theirs = content["metrics"]["best_val_loss"]
    assert theirs < mine["best_val_loss"] < mine["baseline_val_loss"]
    assert f"no better than {there}, which it would replace" in caplog.text
    assert f"loss on the same segments is {theirs:.4f}" in caplog.text


def test_what_is_better_than_what_it_replaces_is_published_each_time(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "store")
    there = store.publish(TINY, random_model(TINY, seed=5).state_dict())
    changes = {"max_steps": 4, "eval_every_batches": 2, "publish_to": str(store.root)}
    train(configuration.parse({**settings, **changes}), CPU)
    versions = store.versions()
    val = [
        float(row["loss"]) for row in rows(Path(settings["output_dir"])) if row["split"] == "val"
    ]
    assert val[0] > val[1] > val[2]
    assert versions[0] == there
    assert [store.manifest(one).metrics["best_val_loss"] for one in versions[1:]] == val[1:]
    assert store.current() == versions[-1]


def test_a_model_of_another_kind_is_not_replaced(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ModelStore(tmp_path / "store")
    there = store.publish(TINY_ATTENTION, random_model(TINY_ATTENTION).state_dict())
    train(configuration.parse({**settings, "publish_to": str(store.root)}), CPU)
    assert store.versions() == [there]
    assert "is for 32000 Hz, not 24000" in caplog.text


def test_a_version_whose_configuration_is_not_understood_does_not_end_the_run(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ModelStore(tmp_path / "store")
    there = store.publish(TINY, random_model(TINY, seed=5).state_dict())
    place = store.path(there)
    text = json.dumps({**TINY.to_dict(), "from_the_future": 1}).encode()
    (place / "config.json").write_bytes(text)
    manifest = Manifest.from_bytes((place / MANIFEST).read_bytes())
    files = {**manifest.files, "config.json": hashlib.sha256(text).hexdigest()}
    (place / MANIFEST).write_bytes(dataclasses.replace(manifest, files=files).to_bytes())
    with (
        Writer() as writer,
        closing(
            TrainingRun(configuration.parse(settings), World(CPU), writer, StopRequest())
        ) as run,
    ):
        gate = PublishGate(store.root, run.sets, {"base": figures(2.0, 2.2)})
        assert gate.offer(tmp_path / "none.pt", figures(1.0, 1.1), "base") is None
    assert "not published: " in caplog.text
    assert "from_the_future" in caplog.text


def test_the_version_replaced_is_measured_as_the_run_measures_itself(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "store")
    model = random_model(TINY, seed=5)
    there = store.publish(TINY, model.state_dict())
    config = configuration.parse(settings)
    with Writer() as writer, closing(TrainingRun(config, World(CPU), writer, StopRequest())) as run:
        known = {"base": figures(2e9, 2e9, 2e9, 2e9)}
        gate = PublishGate(store.root, run.sets, known)
        assert gate.offer(tmp_path / "none.pt", figures(1e9, 1e9, 1e9, 1e9), "base") is None
        assert list(known) == ["base", there]
        measured = run.validation_set.measure(model)
        assert torch.equal(known[there]["loss"], measured.segments["loss"])
        assert known[there]["loss"].mean() == measured.terms["loss"]


@pytest.mark.parametrize(
    ("loss", "log_mel", "said"),
    [
        ([0.9, 2.2, 2.6, 4.2], [1.0, 1.1, 1.2, 1.3], "no better than the model that the run"),
        ([0.98, 1.97, 2.98, 3.97], [0.9, 1.2, 1.1, 1.4], "not better by 2.00% (gate_gain) than"),
        ([0.9, 1.9, 2.9, 3.9], [2.0, 2.1, 2.2, 2.3], "log_mel is worse than that of the model"),
        ([0.9, 1.9, 2.9, 3.9], [0.9, 1.2, 1.1, 1.4], ""),
    ],
    ids=["within the interval", "a small gain", "a figure falls", "better"],
)
def test_only_a_gain_beyond_its_interval_is_published(
    settings: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    loss: list[float],
    log_mel: list[float],
    said: str,
) -> None:
    store = ModelStore(tmp_path / "store")
    content = torch.load(train(configuration.parse(settings), CPU), weights_only=True)
    changes = {"publish_to": str(store.root), "gate_metrics": ["log_mel"], "gate_gain": 0.02}
    changes["output_dir"] = str(tmp_path / "second")
    config = configuration.parse({**settings, **changes})
    torch.save(content, tmp_path / "model.pt")
    with Writer() as writer, closing(TrainingRun(config, World(CPU), writer, StopRequest())) as run:
        measured = run.validation_set.measure(run.model)
        assert measured.segments["log_mel"].isfinite().all()
        assert measured.terms["log_mel"] == float(measured.segments["log_mel"].mean())
        before = figures(1.0, 2.0, 3.0, 4.0) | {"log_mel": torch.tensor([1.0, 1.1, 1.2, 1.3])}
        gate = PublishGate(store.root, run.sets, {"base": before})
        mine = figures(*loss) | {"log_mel": torch.tensor(log_mel)}
        with caplog.at_level(logging.INFO):
            version = gate.offer(tmp_path / "model.pt", mine, "base")
    assert store.versions() == ([] if said else [version])
    if said:
        assert f"not published: {said}" in caplog.text
        return
    assert version is not None
    metrics = store.manifest(version).metrics
    decided = metrics["gate"]["base"]
    assert decided.keys() == {"loss", "log_mel"}
    assert decided["loss"]["change"] == pytest.approx(-0.1)
    assert decided["log_mel"]["ci95"] > abs(decided["log_mel"]["change"])
    assert metrics.items() >= content["metrics"].items()


def test_a_version_that_does_not_give_its_golden_clip_is_not_made_current(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    served = store.publish(TINY, random_model(TINY, seed=1).state_dict())
    other = store.publish(TINY, random_model(TINY, seed=2).state_dict(), make_current=False)
    path = store.path(other) / MANIFEST
    manifest = Manifest.from_bytes(path.read_bytes())
    wrong = tuple(tuple((code + 1) % 4096 for code in level) for level in manifest.golden)
    path.write_bytes(dataclasses.replace(manifest, golden=wrong).to_bytes())
    with pytest.raises(StoreError, match=r"not made current: .*codes of the golden clip differ"):
        make_current(store, other, CPU)
    assert store.current() == served
    path.write_bytes(manifest.to_bytes())
    make_current(store, other, CPU)
    assert store.current() == other
    assert json.loads(path.read_bytes())["version"] == other
