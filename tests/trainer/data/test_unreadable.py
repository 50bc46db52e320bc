from __future__ import annotations

import csv
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data.unreadable import Unreadable

PROGRAM = [sys.executable, "-m", "tests.trainer.data.name_unreadable"]


def test_processes_together_name_each_recording_once(tmp_path: Path) -> None:
    path = tmp_path / "unreadable.csv"
    unreadable = Unreadable(path)
    unreadable.add("first.wav", "cut short")
    assert len(unreadable) == 1
    commands = [[*PROGRAM, str(path), str(number)] for number in range(3)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["path"] for row in rows}) == 104
    assert unreadable.all()["7.wav"] == "broken, in two lines 7"
    assert len(unreadable) == 104
    assert len(Unreadable(path)) == 104


@pytest.mark.parametrize("shared", [True, False])
def test_each_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shared: bool
) -> None:
    path = tmp_path / "unreadable.csv" if shared else None
    unreadable = Unreadable(path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            unreadable.add(os.fsdecode(b"\xff.wav"), "no audio")
        if shared:
            Unreadable(path).add(os.fsdecode(b"\xff.wav"), "no audio")
    assert [record.getMessage() for record in caplog.records] == [r"leaving out \xff.wav: no audio"]
    assert unreadable.all() == {r"\xff.wav": "no audio"}
