from __future__ import annotations

import json
import logging
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from snac_core.config import SnacConfig
from tests.trainer.commands import Forked, curve, started, wait_for_rows
from tests.trainer.conftest import everything_at_once, few_steps
from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.runtime.resume import check_settings
from trainer.training.loop import train

CPU = torch.device("cpu")

log = logging.getLogger(__name__)


def state_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


GUIDED = SnacConfig(encoder_dim=8, decoder_dim=32, codebook_size=32)
ALL_THAT_A_STEP_DEPENDS_ON = {
    **everything_at_once(),
    "accumulate": 2,
    "loss_balancer": True,
}
A_GUIDED_START = {
    **everything_at_once(),
    "model": GUIDED.to_dict(),
    "guided_steps": 7,
    "adversarial_weight": 0.0,
    "feature_weight": 0.0,
}


@pytest.mark.parametrize(
    "changes",
    [ALL_THAT_A_STEP_DEPENDS_ON, pytest.param(A_GUIDED_START, marks=pytest.mark.slow)],
)
def test_killed_again_and_again_and_gone_on_with_is_as_if_never_killed(
    settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings |= changes | {"save_every_batches": 3, "eval_every_batches": 7}
    whole = {**settings, "output_dir": str(tmp_path / "whole")}
    train(configuration.parse(whole), CPU)
    expected = curve(tmp_path / "whole")

    output = tmp_path / "killed"
    path = tmp_path / "config.json"
    # The process that reads ahead is killed with the one that trains.
    path.write_text(json.dumps({**settings, "output_dir": str(output), "num_workers": 1}))
    command = ("train", "--config", str(path), "--device", "cpu", "--resume", "auto")
    # Once early on, once around the middle, where a guide ends, and once late.
    places = [random.randrange(*bounds) for bounds in ((2, 6), (6, 10), (10, len(expected) - 3))]
    log.info("killed at rows %s of %d", places, len(expected))
    for place in places:
        process = Forked(command, tmp_path / "said")
        wait_for_rows(process, output, place)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    process = Forked(command, tmp_path / "said")
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "going on from" in said
    assert curve(output) == expected, f"killed at rows {places}"
    for name in ("best_model.pt", "checkpoint_epoch2.pt"):
        one, other = (state_of(folder / name) for folder in (tmp_path / "whole", output))
        torch.testing.assert_close(one["model"], other["model"], rtol=0, atol=0)
        assert one["metrics"] == other["metrics"]


def test_asked_to_stop_it_saves_and_ends_well(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**settings, "max_steps": 10**6, "num_epochs": 10**6}))
    output = Path(settings["output_dir"])
    command = ("train", "--config", str(path), "--device", "cpu", "--set", "log_every=1")
    ways: dict[signal.Signals, Callable[[], Forked | subprocess.Popen[str]]] = {
        signal.SIGTERM: lambda: started(*command),
        signal.SIGINT: lambda: Forked((*command, "--resume", "auto"), tmp_path / "said"),
    }
    for turn, (number, start) in enumerate(ways.items(), 1):
        process = start()
        wait_for_rows(process, output, 5 * turn)
        process.send_signal(number)
        said, _ = process.communicate()
        assert process.returncode == 0, said
        assert "stopped at step" in said
        assert "Traceback" not in said
        latest = state_of(output / "checkpoint_latest.pt")
        assert latest["step"] == int(curve(output)[-1]["step"])


def test_what_was_saved_by_a_signal_goes_on_from_that_very_step(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"max_steps": 6, "log_every": 1, "sample_clips": 0, "eval_every_batches": 2}
    train(configuration.parse({**settings, "output_dir": str(tmp_path / "whole")}), CPU)
    # What the run does at step 3 is to be asked to stop.
    output = tmp_path / "parts"
    config = configuration.parse({**settings, "output_dir": str(output)})
    from trainer.training import loop

    class AtStepThree(loop.TrainingRun):
        def _keep_codebooks(self) -> None:
            if self.state.step in (2, 3):
                signal.raise_signal(signal.SIGTERM)

    before = loop.TrainingRun
    loop.TrainingRun = AtStepThree  # type: ignore[misc]
    try:
        train(config, CPU)
        assert state_of(output / "checkpoint_latest.pt")["step"] == 2
        train(configuration.parse({**config.to_dict(), "resume": "auto"}), CPU)
        assert state_of(output / "checkpoint_latest.pt")["step"] == 3
    finally:
        loop.TrainingRun = before  # type: ignore[misc]
    best = train(configuration.parse({**config.to_dict(), "resume": "auto"}), CPU)
    assert curve(output) == curve(tmp_path / "whole")
    assert state_of(best)["step"] == state_of(tmp_path / "whole" / "best_model.pt")["step"]


def test_other_settings_are_no_continuation(
    trained: dict[str, Any], tmp_path: Path, recordings: Path
) -> None:
    latest = Path(trained["output_dir"]) / "checkpoint_epoch1.pt"
    changes = {"resume": str(latest), "output_dir": str(tmp_path / "on")}
    with pytest.raises(TrainerError, match=r"mel_weight 0\.0 -> 2\.0\); to start a new run"):
        train(configuration.parse({**trained, **changes, "mel_weight": 2.0}), CPU)
    with pytest.raises(TrainerError, match=r"there is no checkpoint .*none\.pt to resume from"):
        train(configuration.parse({**trained, "resume": "none.pt"}), CPU)
    best = Path(trained["output_dir"]) / "best_model.pt"
    with pytest.raises(TrainerError, match="no checkpoint that a run can go on from"):
        train(configuration.parse({**trained, **changes, "resume": str(best)}), CPU)


def test_another_number_of_epochs_keeps_the_segments_that_losses_compare_on(
    trained: dict[str, Any], tmp_path: Path
) -> None:
    before = configuration.parse(trained).to_dict()
    path = tmp_path / "checkpoint_epoch1.pt"
    check_settings(configuration.parse({**trained, "num_epochs": 5}), before, path)
    with pytest.raises(
        TrainerError, match=r"segments of 0\.34 s, and num_epochs 1 makes that 0\.17 s"
    ):
        check_settings(configuration.parse({**trained, "num_epochs": 1}), before, path)


def test_a_finished_run_has_nothing_to_go_on_with(trained: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(trained["output_dir"], output)
    before = curve(output)
    on = {**trained, "output_dir": str(output), "resume": "auto"}
    assert train(configuration.parse(on), CPU) == output / "best_model.pt"
    assert curve(output) == before


def test_a_checkpoint_that_cannot_be_read_gives_way_to_the_one_before(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings |= {"max_steps": 4, "save_every_batches": 2, "sample_clips": 0, "log_every": 1}
    train(configuration.parse(settings), CPU)
    output = Path(settings["output_dir"])
    before = curve(output)
    last = output / "checkpoint_epoch1.pt"
    last.write_bytes(last.read_bytes()[:1000])
    (output / "checkpoint_latest.pt").replace(output / "checkpoint_epoch0.pt")
    last.touch()
    train(configuration.parse({**settings, "resume": "auto"}), CPU)
    assert "trying the one before" in caplog.text
    assert curve(output) == before


def test_a_new_run_takes_nothing_of_an_earlier_one_and_keeps_it(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings |= {"max_steps": 1, "sample_clips": 0}
    output = Path(settings["output_dir"])
    train(configuration.parse(settings), CPU)
    before = (output / "best_model.pt").read_bytes()
    train(configuration.parse({**settings, "learning_rate": 2e-3}), CPU)
    assert (output / "earlier-1" / "best_model.pt").read_bytes() == before
    assert (output / "earlier-1" / "checkpoint_epoch1.pt").exists()
    assert "an earlier run's files are now in" in caplog.text
    assert [row["step"] for row in curve(output)] == ["0", "1"]


def test_the_base_may_be_gone_or_replaced_when_a_run_goes_on(
    recordings: Path, tmp_path: Path, base: Any
) -> None:
    settings = few_steps(recordings, base, tmp_path / "run") | {"sample_clips": 0, "max_steps": 2}
    train(configuration.parse(settings), CPU)
    on = {**settings, "max_steps": 3, "resume": "auto", "pretrained_model": str(tmp_path / "gone")}
    best = train(configuration.parse(on), CPU)
    assert state_of(best)["base"] == base.current()
