from __future__ import annotations

import json
import logging
import math
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.trainer.commands import Forked, curve, wait_for_rows
from tests.trainer.conftest import everything_at_once, record, weights
from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.runtime.distributed import World, device_called, process_count
from trainer.training.loop import train

CPU = torch.device("cpu")

log = logging.getLogger(__name__)


def same_curve(found: list[dict[str, str]], expected: list[dict[str, str]], rel: float) -> None:
    """Check every figure of two curves; ``--log-cli-level=INFO`` shows how close they are."""
    largest = 0.0
    assert [(row["split"], row["step"], row["epoch"]) for row in found] == [
        (row["split"], row["step"], row["epoch"]) for row in expected
    ]
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            if name in ("split", "gradient_norm"):
                continue
            assert bool(one[name]) == bool(value), (name, other["step"])
            if value:
                difference = abs(float(one[name]) - float(value)) / max(abs(float(value)), 1e-6)
                assert difference <= rel, (name, one, other)
                largest = max(largest, difference)
    log.info("largest relative difference in %d rows: %.1e", len(expected), largest)


def test_two_processes_learn_what_one_does(settings: dict[str, Any], tmp_path: Path) -> None:
    # Short recordings, so that the processes have more and less padding, and one that breaks.
    for number, seconds in enumerate((0.1, 0.25, 0.31, 0.4, 0.09, 0.17)):
        record(tmp_path / "data" / f"{number}.wav", seconds, seed=number)
    damaged = tmp_path / "data" / "6.flac"
    record(damaged, 0.3, seed=6)
    damaged.write_bytes(damaged.read_bytes()[:2000])
    settings |= everything_at_once()
    settings |= {
        "train_data": [{"path": str(tmp_path / "data"), "weight": 2.0}],
        "val_data": str(tmp_path / "data"),
        "max_steps": 6,
        "num_epochs": 6,
        "num_workers": 0,
        "eval_batch_size": 2,
        "sample_clips": 0,
    }
    outputs = [tmp_path / "one", tmp_path / "two"]
    train(configuration.parse({**settings, "output_dir": str(outputs[0])}), CPU)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**settings, "output_dir": str(outputs[1])}))
    command = ("train", "--config", str(path), "--device", "cpu", "--nproc", "2")
    process = Forked(command, tmp_path / "said")
    said, _ = process.communicate()
    assert process.returncode == 0, said
    one, two = map(curve, outputs)
    assert len(one) >= 6 + 2
    same_curve(two, one, rel=1e-4)
    # No process but the first writes.
    assert len(list((outputs[1] / "logs").glob("events.*"))) == 1
    first, second = (weights(output / "best_model.pt") for output in outputs)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_process_that_dies_is_replaced_and_a_signal_ends_all_well(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"batch_size": 3, "save_every_batches": 2, "log_every": 1, "sample_clips": 0}
    settings |= {"max_steps": 24, "num_epochs": 4, "num_workers": 1}
    whole, output = tmp_path / "whole", tmp_path / "run"
    train(configuration.parse({**settings, "output_dir": str(whole)}), CPU)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**settings, "output_dir": str(output)}))
    command = ("train", "--config", str(path), "--device", "cpu", "--nproc", "2")
    process = Forked((*command, "--max-restarts", "1"), tmp_path / "said")
    wait_for_rows(process, output, 5)
    psutil.Process(process.pid).children()[1].kill()
    # The file is replaced when the new processes go on from what was saved.
    wait_for_rows(process, output, 10)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "going on from" in said
    assert "stopped at step" in said
    # Any number of processes goes on with what any number has begun.
    train(configuration.parse({**settings, "output_dir": str(output), "resume": "auto"}), CPU)
    same_curve(curve(output), curve(whole), rel=1e-4)


@pytest.mark.parametrize(("batch", "size"), [(21, 2), (96, 8), (28, 8), (3, 3), (5, 1)])
def test_every_place_of_a_batch_belongs_to_one_process(batch: int, size: int) -> None:
    shares = [World(CPU, rank, size).share(batch) for rank in range(size)]
    assert [place for share in shares for place in share] == list(range(batch))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_everything_shared_is_ones_own() -> None:
    world = World(CPU)
    values = torch.tensor([1.0, math.pi], requires_grad=True)
    assert torch.equal(world.mean(values), values)
    assert not world.mean(values).requires_grad
    assert torch.equal(world.all_gather_rows(values[None]), values[None])
    assert world.gather("thing") == ["thing"]
    assert world.broadcast_object(3) == 3
    module = torch.nn.Linear(2, 2)
    assert world.wrapped(module) is module
    assert world.main


def test_devices_and_process_counts_that_are_not_there() -> None:
    assert device_called("cpu") == CPU
    with pytest.raises(TrainerError, match="no device is called 'typewriter'; try 0 or cpu"):
        device_called("typewriter")
    with pytest.raises(TrainerError, match="there is no cuda:99 here"):
        device_called("99")
    assert process_count(3, "cpu") == 3
    with pytest.raises(TrainerError, match="--nproc must be 1 or more, not 0"):
        process_count(0, "cpu")
    with pytest.raises(TrainerError, match="--ddp starts a process per GPU and there is none"):
        process_count(None, "cpu")
