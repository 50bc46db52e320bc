"""What ends a job, with processes that read: each way leaves a checkpoint of the last step."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.trainer.commands import Forked, Started, curve, wait_for_rows
from trainer.runtime.stopping import REPEAT_SECONDS

READERS = 2
ONE, TWO = (), ("--nproc", "2")


@pytest.fixture
def output(settings: dict[str, Any]) -> Path:
    return Path(settings["output_dir"])


@pytest.fixture
def start(settings: dict[str, Any], tmp_path: Path) -> Callable[..., Forked]:
    """Start a run that would go on for ever, in one process or several."""
    path = tmp_path / "config.json"
    settings |= {"num_workers": READERS, "log_every": 1, "max_steps": 10**6, "num_epochs": 10**6}
    path.write_text(json.dumps(settings))
    turns = iter(range(10))

    def start(*arguments: str) -> Forked:
        command = ("train", "--config", str(path), "--device", "cpu", "--resume", "auto")
        return Forked((*command, *arguments), tmp_path / f"said{next(turns)}")

    return start


def signal_all(process: Started, number: signal.Signals) -> None:
    """Signal every process of a job, as a service manager does, and the first one twice."""
    everyone = psutil.Process(process.pid).children(recursive=True)
    for one in (psutil.Process(process.pid), *everyone, psutil.Process(process.pid)):
        one.send_signal(number)


def readers(process: Started, ranks: bool) -> list[psutil.Process]:
    """Return the processes that read for a run, or for its first rank."""
    trainer = psutil.Process(process.pid)
    if ranks:
        trainer = trainer.children()[0]
    found: list[psutil.Process] = []
    while len(found) < READERS:
        time.sleep(0.02)
        found = trainer.children()
    return found


def saved_step(output: Path) -> int:
    latest = torch.load(output / "checkpoint_latest.pt", weights_only=True)
    return int(latest["step"])


def wait_until_saved(process: Started, output: Path, after: int = 0) -> None:
    while not (output / "checkpoint_latest.pt").exists() or saved_step(output) <= after:
        assert process.poll() is None
        time.sleep(0.05)


def test_a_signal_to_every_process_of_a_job_costs_no_step(
    start: Callable[..., Forked], output: Path
) -> None:
    process = start()
    wait_for_rows(process, output, 3)
    signal_all(process, signal.SIGUSR1)
    wait_until_saved(process, output)
    step = saved_step(output)
    wait_for_rows(process, output, step + 3)
    signal_all(process, signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert saved_step(output) == int(curve(output)[-1]["step"]) > step


@pytest.mark.slow
def test_processes_of_one_launcher_save_and_go_on_and_are_killed_by_a_second_signal(
    start: Callable[..., Forked], output: Path
) -> None:
    process = start(*TWO)
    wait_for_rows(process, output, 3)
    process.send_signal(signal.SIGUSR1)
    wait_until_saved(process, output)
    step = saved_step(output)
    wait_for_rows(process, output, step + 3)
    signal_all(process, signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert saved_step(output) == int(curve(output)[-1]["step"]) > step

    process = start(*TWO)
    wait_for_rows(process, output, saved_step(output) + 3)
    everyone = psutil.Process(process.pid).children(recursive=True)
    # One of them does not answer, so that the other waits for it.
    psutil.Process(process.pid).children()[1].suspend()
    process.send_signal(signal.SIGTERM)
    time.sleep(2 * REPEAT_SECONDS)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 130, said
    assert "snac-trainer: interrupted" in said
    assert not psutil.wait_procs(everyone, timeout=30)[1]


@pytest.mark.parametrize("processes", [ONE, pytest.param(TWO, marks=pytest.mark.slow)])
def test_a_reader_that_is_killed_ends_the_run_with_what_was_learnt(
    start: Callable[..., Forked], output: Path, processes: tuple[str, ...]
) -> None:
    process = start(*processes)
    wait_for_rows(process, output, 3)
    readers(process, bool(processes))[0].kill()
    said, _ = process.communicate()
    assert process.returncode == 1, said
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if "a process that reads" in line]
    assert errors[0].startswith("snac-trainer: error: ")
    assert saved_step(output) == int(curve(output)[-1]["step"]) > 0
