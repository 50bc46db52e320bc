"""A run on two machines, which are both this one, started as Slurm starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.commands import FORKSERVER, Forked, curve, wait_for_rows


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def endless(settings: dict[str, Any], tmp_path: Path) -> Path:
    """The file of a configuration that would go on for ever, with processes that read."""
    settings |= {"num_workers": 1, "log_every": 1, "max_steps": 10**6, "num_epochs": 10**6}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    return path


def check_saved(output: Path) -> None:
    """Assert that what was saved is the last step."""
    latest = torch.load(output / "checkpoint_latest.pt", weights_only=True)
    assert latest["step"] == int(curve(output)[-1]["step"]) > 0


class Task(Forked):
    """One of several processes that are told by their environment who they are."""

    def __init__(self, arguments: tuple[str, ...], said: Path, place: Mapping[str, str]) -> None:
        self._said = said
        self._process = FORKSERVER.Process(target=_placed, args=(arguments, said, dict(place)))
        self._process.start()


def _placed(arguments: tuple[str, ...], said: Path, place: dict[str, str]) -> None:
    from tests.trainer.commands import _run

    os.environ |= place
    _run(arguments, said)


@pytest.mark.slow
def test_tasks_of_a_scheduler_all_stop_when_one_is_asked_to(
    endless: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    port = str(free_port())
    tasks = [
        Task(
            ("train", "--config", str(endless), "--device", "cpu", "--resume", "auto"),
            tmp_path / f"said{rank}",
            {
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"},
                **{"RANK": str(rank), "LOCAL_RANK": "0"},
            },
        )
        for rank in range(2)
    ]
    output = Path(settings["output_dir"])
    wait_for_rows(tasks[0], output, 3)
    tasks[1].send_signal(signal.SIGTERM)
    for task in tasks:
        said, _ = task.communicate()
        assert task.returncode == 0, said
        assert "Traceback" not in said
    check_saved(output)
