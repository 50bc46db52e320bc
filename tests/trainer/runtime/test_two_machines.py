"""A run on two machines, which are both this one, started as Slurm and as torchrun start it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.commands import FORKSERVER, LONGEST_WAIT, Forked, curve, wait_for_rows


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


@pytest.mark.slow
def test_torchrun_on_each_machine_lets_a_run_save_when_the_job_ends(
    endless: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    output, port = Path(settings["output_dir"]), free_port()
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--shutdown-timeout=120"),
        *("-m", "trainer", "train", "--config", str(endless), "--device", "cpu"),
    ]
    said = [tmp_path / f"said{machine}" for machine in range(2)]
    agents = []
    for path in said:
        with path.open("wb") as file:
            # A group of its own, whose every process is signalled when a job ends.
            agents.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": ""},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    try:
        deadline = time.monotonic() + LONGEST_WAIT
        while not (output / "metrics.csv").exists() or len(curve(output)) < 4:
            assert [agent.poll() for agent in agents] == [None, None]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for agent in agents:
            os.killpg(agent.pid, signal.SIGTERM)
        codes = [agent.wait(LONGEST_WAIT) for agent in agents]
    finally:
        for agent in agents:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
    told = [path.read_text() for path in said]
    # As the documentation has it: torchrun's own code for a signal.
    assert codes == [1, 1], told
    assert sum("stopped at step" in one for one in told) == 1, told
    assert not any("ChildFailedError" in one or "error: " in one for one in told), told
    check_saved(output)
