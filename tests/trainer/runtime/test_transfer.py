from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.commands import Forked, curve, wait_for_rows
from tests.trainer.conftest import everything_at_once
from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.runtime import transfer
from trainer.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture
def stopped(settings: dict[str, Any], tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """The settings of a run, and its folder after it was stopped in the middle."""
    settings |= everything_at_once()
    run, config = tmp_path / "first machine", tmp_path / "config.json"
    config.write_text(json.dumps({**settings, "output_dir": str(run)}))
    process = Forked(("train", "--config", str(config), "--device", "cpu"), tmp_path / "said")
    wait_for_rows(process, run, 5)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    return settings, run


def test_a_carried_run_goes_on_as_if_it_had_never_stopped(
    stopped: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    settings, run = stopped
    whole, other, parts = tmp_path / "whole", tmp_path / "second machine", tmp_path / "parts"
    train(configuration.parse({**settings, "output_dir": str(whole)}), CPU)
    paths = transfer.pack(run, parts, part_bytes=50_000)
    assert len(paths) > 2
    assert max(path.stat().st_size for path in paths) <= 50_000
    shutil.rmtree(run)
    step = transfer.unpack(parts, other)
    assert step > 0
    train(configuration.parse({**settings, "output_dir": str(other), "resume": "auto"}), CPU)
    assert curve(other) == curve(whole)
    ends = [torch.load(one / "best_model.pt", weights_only=True) for one in (whole, other)]
    torch.testing.assert_close(ends[0]["model"], ends[1]["model"], rtol=0, atol=0)


def test_half_the_bytes_and_nearly_the_same_state(
    stopped: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    settings, run = stopped
    exact, half, other = tmp_path / "exact", tmp_path / "half", tmp_path / "other"
    sizes = []
    for folder, halved in ((exact, False), (half, True)):
        paths = transfer.pack(run, folder, halved)
        sizes.append(sum(path.stat().st_size for path in paths))
    assert sizes[1] < sizes[0]
    transfer.unpack(half, other)
    before, after = (
        torch.load(folder / "checkpoint_latest.pt", weights_only=True) for folder in (run, other)
    )
    for name, weight in before["model"].items():
        assert after["model"][name].dtype == weight.dtype
        torch.testing.assert_close(after["model"][name], weight, rtol=1e-3, atol=1e-6)
    for number, moments in before["optimizer"]["state"].items():
        for name, moment in moments.items():
            carried = after["optimizer"]["state"][number][name]
            torch.testing.assert_close(carried, moment, rtol=1e-2, atol=1e-30)
    train(configuration.parse({**settings, "output_dir": str(other), "resume": "auto"}), CPU)


def test_parts_that_are_missing_or_damaged_are_refused(
    stopped: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    parts, other = tmp_path / "parts", tmp_path / "other"
    first, *_ = transfer.pack(stopped[1], parts, part_bytes=50_000)
    data = first.read_bytes()
    first.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(TrainerError, match="are damaged, or of different transfers"):
        transfer.unpack(parts, other)
    first.unlink()
    with pytest.raises(TrainerError, match=r"lacks part-000\.bin"):
        transfer.unpack(parts, other)
    assert not other.exists()
    with pytest.raises(TrainerError, match="no checkpoint in"):
        transfer.pack(tmp_path, parts)
