from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.commands import rows
from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.runtime.checkpointing import Writer, checkpoints, copied_to_cpu, of_epoch, prune, save
from trainer.training.loop import train

CPU = torch.device("cpu")


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Let writes past ``size`` bytes of any file fail, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", {"step": 3, "model": {"w": torch.arange(4.0)}})
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    assert found["step"] == 3
    assert torch.equal(found["model"]["w"], torch.arange(4.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_disk_that_cannot_take_it_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save(path, {"step": 1})
    with files_no_larger_than(50_000), pytest.raises(OSError, match="File too large"):
        save(path, {"step": 2, "model": torch.zeros(100_000)})
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt"]


def test_what_is_saved_in_the_background_is_what_there_was_when_it_was_asked_for(
    tmp_path: Path,
) -> None:
    weights = torch.zeros(300_000)
    with Writer() as writer:
        for step in range(4):
            weights.fill_(step)
            writer.save(tmp_path / f"{step}.pt", {"model": {"w": weights}, "some": [weights]})
            weights.fill_(-1.0)
    for step in range(4):
        found = torch.load(tmp_path / f"{step}.pt", weights_only=True)
        assert (found["model"]["w"] == step).all()
        assert (found["some"][0] == step).all()


def test_a_save_that_fails_is_counted_and_an_error_only_if_no_later_one_makes_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = tmp_path / "a.pt", tmp_path / "b.pt"
    large = {"step": 2, "model": torch.zeros(100_000)}
    with Writer() as writer:
        writer.save(path, {"step": 1})
        assert writer.saved(path)
        with files_no_larger_than(50_000):
            writer.save(path, large)
            assert not writer.saved(path)
        assert torch.load(path, weights_only=True) == {"step": 1}
        assert writer.failures == 1
        assert "a.pt is not saved (failure 1): " in caplog.text
        writer.save(path, large)
    assert torch.load(path, weights_only=True)["step"] == 2

    def fails() -> None:
        with files_no_larger_than(50_000), Writer() as writer:
            writer.save(other, large)

    with pytest.raises(TrainerError, match=r"not saved: .*b\.pt: .*File too large"):
        fails()
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize("later", ["a save", "the end"])
def test_what_could_not_be_saved_is_saved_when_there_is_room_again(
    tmp_path: Path, later: str
) -> None:
    best, latest = tmp_path / "best_model.pt", tmp_path / "checkpoint_latest.pt"
    with Writer() as writer:
        with files_no_larger_than(50_000):
            writer.save(best, {"step": 2, "model": torch.zeros(100_000)})
            writer.save(latest, {"step": 3})
            writer.wait()
        assert not best.exists()
        if later == "a save":
            writer.save(latest, {"step": 4})
            assert writer.saved(best)
    assert torch.load(best, weights_only=True)["step"] == 2
    assert best.stat().st_mtime_ns < latest.stat().st_mtime_ns


def test_a_run_on_a_full_disk_goes_on_and_keeps_what_it_had(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings |= {"sample_clips": 0, "save_every_batches": 1, "max_steps": 1, "log_every": 1}
    output = Path(settings["output_dir"])
    train(configuration.parse(settings), CPU)
    before = {path.name: path.read_bytes() for path in output.glob("*.pt")}
    assert before.keys() == {"best_model.pt", "checkpoint_epoch1.pt", "checkpoint_latest.pt"}
    on = configuration.parse({**settings, "max_steps": 4, "resume": "auto"})
    with (
        files_no_larger_than(100_000),
        pytest.raises(TrainerError, match=r"not saved: .*checkpoint_latest\.pt"),
    ):
        train(on, CPU)
    assert [row["step"] for row in rows(output) if row["split"] == "train"] == ["1", "2", "3", "4"]
    assert {path.name: path.read_bytes() for path in output.glob("*.pt")} == before
    assert "checkpoint_latest.pt is not saved (failure 1)" in caplog.text
    # With room again, it goes on from what it had.
    train(on, CPU)
    assert torch.load(output / "checkpoint_epoch1.pt", weights_only=True)["step"] == 4


def test_the_newest_epochs_are_kept(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_epochs.pt").touch()
    with Writer(keep=2) as writer:
        for epoch in (8, 9, 10, 11):
            writer.save(tmp_path / of_epoch(epoch), {"epoch": epoch})
        writer.save(tmp_path / "checkpoint_latest.pt", {"epoch": 11})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("checkpoint_epoch10.pt", "checkpoint_epoch11.pt"),
        *("checkpoint_latest.pt", "checkpoint_epochs.pt"),
    }
    assert next(path.name for path in checkpoints(tmp_path)) == "checkpoint_latest.pt"
    # As after going on from an older epoch.
    with Writer(keep=2) as writer:
        writer.save(tmp_path / of_epoch(5), {"epoch": 5})
    left = {path.name for path in tmp_path.glob("checkpoint_epoch[0-9]*.pt")}
    assert left == {"checkpoint_epoch5.pt", "checkpoint_epoch11.pt"}
    prune(tmp_path, 1)
    assert not (tmp_path / "checkpoint_epoch11.pt").exists()


def test_a_copy_shares_nothing() -> None:
    inside = torch.ones(2)
    thing = {"a": inside, "b": [inside, (inside, "x")], "c": None}
    copied = copied_to_cpu(thing)
    inside.zero_()
    assert (copied["a"] == 1).all()
    assert (copied["b"][0] == 1).all()
    assert (copied["b"][1][0] == 1).all()
    assert (copied["b"][1][1], copied["c"]) == ("x", None)
