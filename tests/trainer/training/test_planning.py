from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import RATE, everything_at_once
from trainer import config as configuration
from trainer.cli import main
from trainer.errors import TrainerError
from trainer.model.network import starting_model
from trainer.training.dry_run import plan
from trainer.training.memory import memory, peak_bytes


def test_a_dry_run_says_what_would_be_done_and_touches_nothing(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curriculum = [
        {"epochs": [1, 2], "length": 0.17, "batch_multiplier": 1.5},
        {"epochs": 3, "length": 0.34},
    ]
    settings |= {"num_epochs": 4, "curriculum": curriculum, "max_steps": 50}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    before = set(tmp_path.rglob("*"))
    arguments = ["train", "--config", str(path), "--device", "cpu", "--dry-run"]
    assert main([*arguments, "--nproc", "2", "--resume", "auto"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # 12 recordings: four each of 1.2 s, 0.8 s and 0.3 s; segments are whole frames.
    assert "epochs 1-2: 0.17 s x 3 (1 or 2 in each of 2 processes), 16 steps per epoch" in lines
    third = "epochs 3-4: 0.34 s x 2 (1 in each of 2 processes), 12 steps per epoch"
    assert f"{third}, 4 recordings are shorter and padded" in lines
    assert "steps: 50 of 56, as max_steps says" in lines
    assert "token space: stays that of the base model" in lines
    assert any(line.startswith("encoder: ") and line.endswith("are frozen") for line in lines)
    assert any(line.startswith("decoder: ") and line.endswith("weights learn") for line in lines)
    assert "resume: nothing, it starts anew" in lines
    assert set(tmp_path.rglob("*")) == before


def test_the_plan_names_the_checkpoint_that_would_be_gone_on_from(trained: dict[str, Any]) -> None:
    text = plan(configuration.parse({**trained, "resume": "auto"}))
    assert f"resume: {Path(trained['output_dir']) / 'checkpoint_epoch2.pt'}" in text


def test_memory_grows_with_the_batch_and_shrinks_with_processes_and_parts(
    settings: dict[str, Any],
) -> None:
    def memory(processes: int = 1, **changes: Any) -> float:
        config = configuration.parse({**settings, **changes})
        (line,) = [one for one in plan(config, processes).splitlines() if one.startswith("memory")]
        return float(line.split("about ")[1].split(" GiB")[0])

    alone = memory(batch_size=12, segment_length=10.0)
    assert memory(batch_size=24, segment_length=10.0) > 1.8 * alone > 0.2
    assert memory(2, batch_size=12, segment_length=10.0) < 0.6 * alone
    assert memory(batch_size=12, segment_length=10.0, accumulate=2) < 0.6 * alone


def test_the_estimate_is_what_a_step_takes(settings: dict[str, Any]) -> None:
    changes = everything_at_once() | {"curriculum": None, "segment_length": 2.0, "batch_size": 1}
    config = configuration.parse({**settings, **changes})
    model, _ = starting_model(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    estimate = memory(config, model)
    whole = peak_bytes(config, model, model.config.padded_samples(2 * RATE))
    assert estimate == pytest.approx(whole, rel=0.15)
    # Nothing of it stays in the model.
    assert all(weight.grad is None for weight in model.parameters())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    less = memory(config.model_copy(update={"gradient_checkpointing": True}), model)
    assert less < 0.9 * estimate


def test_a_batch_that_no_gpu_holds_is_told_its_parts(settings: dict[str, Any]) -> None:
    huge = configuration.parse({**settings, "batch_size": 3000, "segment_length": 30.0})
    (line,) = [one for one in plan(huge).splitlines() if one.startswith("memory")]
    assert "which a GPU of 80 GB has" in line


def test_what_would_not_start_is_no_plan(settings: dict[str, Any]) -> None:
    settings |= everything_at_once()
    assert "token space: changes" in plan(configuration.parse(settings))
    with pytest.raises(TrainerError, match="3 segments cannot be shared by 4 processes"):
        plan(configuration.parse(settings), processes=4)
    with pytest.raises(TrainerError, match="cannot be written"):
        plan(configuration.parse({**settings, "output_dir": f"{__file__}/run"}))
    with pytest.raises(TrainerError, match="cannot be written"):
        plan(configuration.parse({**settings, "publish_to": f"{__file__}/store"}))


def test_a_checkpoint_of_other_settings_is_no_plan(trained: dict[str, Any]) -> None:
    with pytest.raises(TrainerError, match="was made with other settings"):
        plan(configuration.parse({**trained, "resume": "auto", "mel_weight": 5.0}))


def test_what_hardly_anybody_means_is_said(settings: dict[str, Any]) -> None:
    assert "warning" not in plan(configuration.parse(settings))
    settings |= {"warmup_steps": 3, "freeze_encoder": False, "freeze_vq": False}
    text = plan(configuration.parse({**settings, "codebook_weight": 0.0}))
    assert "warning: warmup_steps 3 is not less than the 3 steps of the run" in text
    assert "warning: the quantizer learns, but its codebooks cannot move" in text
