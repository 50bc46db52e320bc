from __future__ import annotations

import csv
import resource
from pathlib import Path

import pytest
import torch

from tests.trainer.runtime.test_checkpointing import files_no_larger_than
from trainer.data.unreadable import Unreadable
from trainer.runtime import board
from trainer.runtime.board import Board
from trainer.runtime.metrics import Metrics

ROW = {"step": 0, "epoch": 1, "stage": 1}


def steps(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["step"] for row in csv.DictReader(file)]


def test_rows_that_a_full_disk_refuses_are_written_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics(tmp_path)
    metrics.write("train", {"loss": 1.0}, step=1, epoch=1, stage=1)
    size = (tmp_path / "metrics.csv").stat().st_size
    # Part of a row finds room.
    with files_no_larger_than(size + 10):
        for step in (2, 3):
            metrics.write("train", {"loss": 1.0}, step=step, epoch=1, stage=1)
    assert caplog.text.count("metrics.csv is not written") == 1
    metrics.write("train", {"loss": 1.0}, step=4, epoch=1, stage=1)
    metrics.close()
    assert steps(tmp_path / "metrics.csv") == ["1", "2", "3", "4"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_board_whose_thread_dies_begins_a_new_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "RETRY_SECONDS", 0.0)
    shown = Board(tmp_path)
    noise = torch.rand(48000) * 2 - 1
    with files_no_larger_than(1000):
        for step in range(40):
            shown.add_audio("noise", noise, step, 24000)
        shown.close()
    assert "TensorBoard's files are not written" in caplog.text
    shown.add_scalar("loss", 1.0, 41)
    shown.close()
    newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert b"loss" in newest.read_bytes()


def test_a_list_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unreadable = Unreadable(tmp_path / "unreadable.csv")
    with files_no_larger_than(0):
        unreadable.add("a.wav", "broken")
        unreadable.add("a.wav", "broken")
    assert caplog.text.count("leaving out a.wav: broken") == 1
    assert "unreadable.csv is not written" in caplog.text
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
