"""Going on with other recordings than before, or other processes to read them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.commands import curve
from tests.trainer.conftest import record
from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.preparation.prepare import prepare
from trainer.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture
def stopped(settings: dict[str, Any], recordings: Path, tmp_path: Path) -> dict[str, Any]:
    """The configuration of a run that took three steps, on data of its own."""
    shutil.copytree(recordings, tmp_path / "train")
    shutil.copytree(recordings, tmp_path / "val")
    settings |= {"train_data": str(tmp_path / "train"), "val_data": str(tmp_path / "val")}
    # A rate that does not depend on how long the run is.
    settings |= {"log_every": 1, "eval_every_batches": 3, "lr_min_ratio": 1.0}
    train(configuration.parse(settings), CPU)
    return settings | {"max_steps": 4, "resume": "auto"}


def state_of(settings: dict[str, Any]) -> dict[str, Any]:
    content = torch.load(Path(settings["output_dir"]) / "checkpoint_epoch1.pt", weights_only=True)
    progress: dict[str, Any] = content["run"]["progress"]
    return progress


def test_other_recordings_to_train_on_are_told(
    stopped: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = state_of(stopped)
    record(tmp_path / "train" / "new.wav", 0.5, seed=3)
    train(configuration.parse(stopped), CPU)
    assert "the recordings to train on are not those of before: 12 recordings" in caplog.text
    assert "13 recordings" in caplog.text
    assert state_of(stopped)["baseline"] == before["baseline"]


def test_base_and_best_are_measured_again_on_other_validation_recordings(
    stopped: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = state_of(stopped)
    # Of the same name, length and size.
    record(tmp_path / "val" / "anna_1.wav", 1.2, seed=77)
    train(configuration.parse(stopped), CPU)
    assert "measuring base and best again" in caplog.text
    after = state_of(stopped)
    fresh = {**stopped, "output_dir": str(tmp_path / "fresh"), "resume": None}
    train(configuration.parse(fresh), CPU)
    assert after["baseline"] == state_of(fresh)["baseline"] != before["baseline"]
    assert after["best"] == state_of(fresh)["best"] != before["best"]
    caplog.clear()
    train(configuration.parse({**stopped, "max_steps": 5}), CPU)
    assert "measuring base" not in caplog.text


def test_without_the_base_other_validation_recordings_are_refused(
    stopped: dict[str, Any], tmp_path: Path
) -> None:
    record(tmp_path / "val" / "anna_1.wav", 1.2, seed=77)
    gone = {**stopped, "pretrained_model": str(tmp_path / "none.pt")}
    with pytest.raises(TrainerError, match="the base cannot be measured on them"):
        train(configuration.parse(gone), CPU)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_another_number_of_readers_goes_on(
    stopped: dict[str, Any],
    recordings: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    train(configuration.parse({**stopped, "num_workers": 2}), CPU)
    whole = {**stopped, "output_dir": str(tmp_path / "whole"), "resume": None}
    train(configuration.parse(whole), CPU)
    assert curve(Path(stopped["output_dir"])) == curve(Path(whole["output_dir"]))

    prepare([recordings], tmp_path / "shards", shards=True, shard_recordings=3, jobs=1)
    shards = {**whole, "train_data": str(tmp_path / "shards" / "train"), "shuffle_buffer": 4}
    shards |= {"output_dir": str(tmp_path / "sharded"), "max_steps": 3}
    train(configuration.parse(shards), CPU)
    train(configuration.parse({**shards, "max_steps": 5, "num_workers": 2, "resume": "auto"}), CPU)
    assert "shards are dealt out otherwise than before, to num_workers 2" in caplog.text
    assert curve(tmp_path / "sharded")[-1]["step"] == "5"


def test_a_start_that_fails_moves_nothing(stopped: dict[str, Any], tmp_path: Path) -> None:
    output = Path(stopped["output_dir"])
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    anew = {**stopped, "resume": None}
    for change, said in (
        ({"train_data": str(tmp_path / "none")}, "is not a folder"),
        ({"val_data": str(tmp_path / "none")}, "is not a folder"),
        ({"codec_probability": 0.1, "codecs": ["g711"]}, "codecs must be of"),
    ):
        with pytest.raises(TrainerError, match=said):
            train(configuration.parse({**anew, **change}), CPU)
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before
