"""Which model of a run is the best, and what becomes of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import snac_core
from snac_core.store import ModelStore
from snac_core.store.identity import token_space
from tests.support.models import TINY
from tests.trainer.commands import rows
from tests.trainer.conftest import weights
from tests.trainer.training.runs import CPU, LEARNING, losses, running
from trainer import config as configuration
from trainer.cli import main
from trainer.training.loop import train


def test_each_better_model_is_published(
    settings: dict[str, Any], base: ModelStore, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "store")
    best = train(configuration.parse({**settings, "publish_to": str(store.root)}), CPU)
    (manifest,) = store.list()
    assert store.current() == manifest.version
    metrics = dict(manifest.metrics)
    decided = metrics.pop("gate")
    assert metrics == torch.load(best, weights_only=True)["metrics"]
    assert decided.keys() == {base.current()}
    change, interval = (decided[base.current()]["loss"][name] for name in ("change", "ci95"))
    assert change == pytest.approx(metrics["best_val_loss"] - metrics["baseline_val_loss"])
    assert 0 < interval < -change


def test_a_model_no_better_than_its_base_is_not_published(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ModelStore(tmp_path / "store")
    changes = {"learning_rate": 1e-30, "max_steps": 1, "publish_to": str(store.root)}
    with caplog.at_level(logging.INFO):
        best = train(configuration.parse({**settings, **changes}), CPU)
    assert "not published: no better than the model that the run started from" in caplog.text
    assert store.current() is None
    assert best.exists()


def test_one_segment_is_no_evidence(
    settings: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "config.json"
    settings |= {"val_segments": 1, "publish_to": str(tmp_path / "store")}
    path.write_text(json.dumps(settings))
    with caplog.at_level(logging.INFO):
        assert main(["train", "--config", str(path), "--device", "cpu"]) == 0
    assert ", without an interval, as there are fewer than two segments" in caplog.text
    assert ModelStore(tmp_path / "store").current() is None
    last = capsys.readouterr().out.splitlines()[-1]
    assert "(no interval, as there are fewer than two validation segments); not better" in last


def test_a_store_that_cannot_be_written_does_not_end_the_run(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    config = configuration.parse({**settings, "publish_to": str(tmp_path / "store")})
    train(config, CPU)
    assert "not published: " in caplog.text
    assert (Path(settings["output_dir"]) / "checkpoint_epoch1.pt").exists()


def test_a_new_token_space_is_said_with_how_much_of_the_old_one_is_left(
    settings: dict[str, Any], base: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        best = train(configuration.parse({**settings, **LEARNING, "learning_rate": 3e-4}), CPU)
    content = torch.load(best, weights_only=True)
    old = base.manifest(str(base.current())).token_space
    new = token_space(TINY, content["model"])
    assert new != old
    found = rows(Path(settings["output_dir"]))[-1]
    share = float(found["code_agreement"])
    assert 0 < share < 1
    assert f"token space {new}, no longer {old} of the base: {100 * share:.1f}%" in caplog.text
    assert content["metrics"]["val_code_agreement"] == share

    # Counted once more, clip by clip, with the models as they are used.
    one, other = (snac_core.load(ref, "cpu") for ref in (base.root, best))
    with running(settings, output_dir=str(best.parent / "x")) as run:
        segments = run.validation_set.segments(0.17)
        clips = [
            part.audio[0, : int(part.own.sum())].numpy()
            for part in map(segments.__getitem__, range(4))
        ]
    pairs = zip(one.encode(clips), other.encode(clips), strict=True)
    levels = [pair for a, b in pairs for pair in zip(a.levels, b.levels, strict=True)]
    same = sum(int((a == b).sum()) for a, b in levels)
    assert same / sum(len(a) for a, _ in levels) == pytest.approx(share, abs=0.05)


def test_what_stays_in_its_token_space_is_not_compared(
    trained: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    table = rows(Path(trained["output_dir"]))
    assert all(row["code_agreement"] == "" for row in table)
    assert [row["stage"] for row in table if row["split"] == "val"] == ["1", "1", "2"]


def test_a_run_that_gets_no_better_ends_early(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"learning_rate": 1e-30, "max_steps": 20, "eval_every_batches": 1, "sample_clips": 0}
    changes["early_stop_patience"] = 2
    with caplog.at_level(logging.INFO):
        train(configuration.parse({**settings, **changes}), CPU)
    output = Path(settings["output_dir"])
    assert "ended early: 2 validations in a row were no better" in caplog.text
    assert [row["step"] for row in rows(output)] == ["0", "1", "2", "3"]
    assert torch.load(output / "checkpoint_epoch1.pt", weights_only=True)["step"] == 3
    before = rows(output)
    train(configuration.parse({**settings, **changes, "resume": "auto"}), CPU)
    assert rows(output) == before, "what has ended early does not begin again"
    # Unless there is more patience now.
    changes["early_stop_patience"] = 3
    train(configuration.parse({**settings, **changes, "resume": "auto"}), CPU)
    assert [row["step"] for row in rows(output)] == ["0", "1", "2", "3", "4"]


def test_a_gain_below_min_delta_is_no_new_best(settings: dict[str, Any]) -> None:
    changes = {"max_steps": 20, "eval_every_batches": 1, "sample_clips": 0, "min_delta": 100.0}
    best = train(configuration.parse({**settings, **changes, "early_stop_patience": 2}), CPU)
    validated = [row for row in rows(best.parent) if row["split"] == "val"]
    assert [row["step"] for row in validated] == ["0", "1", "2", "3"]
    first, *_, last = (float(row["loss"]) for row in validated[1:])
    assert last < first
    assert torch.load(best, weights_only=True)["step"] == 1


def test_the_averaged_weights_are_those_validated_and_kept(settings: dict[str, Any]) -> None:
    best = train(configuration.parse({**settings, "ema_decay": 0.9}), CPU)
    last = torch.load(Path(settings["output_dir"]) / "checkpoint_epoch1.pt", weights_only=True)
    averaged = last["run"]["learner"]["average"]
    kept = weights(best)
    assert all(torch.equal(kept[name], averaged[f"module.{name}"]) for name in kept)
    assert not all(torch.equal(kept[name], last["model"][name]) for name in kept)
    on = {**settings, "pretrained_model": str(best), "output_dir": str(best.parent / "x")}
    with running(on) as run:
        expected = torch.load(best, weights_only=True)["metrics"]["best_val_loss"]
        assert losses(run, 0.17)["loss"] == pytest.approx(expected, rel=1e-6)
