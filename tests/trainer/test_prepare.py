from __future__ import annotations

import csv
import logging
import os
import shutil
from pathlib import Path

import pytest

from tests.trainer.conftest import record
from trainer.errors import TrainerError
from trainer.prepare import Split, prepare


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Forty files that have a recording's header, of ten speakers."""
    folder = tmp_path / "in"
    first = record(folder / "s0_0.wav", 0.05, seed=1)
    for number in range(1, 40):
        shutil.copy(first, folder / f"s{number % 10}_{number // 10}.wav")
    return folder


def listing(output: Path) -> dict[str, set[str]]:
    return {side: {path.name for path in (output / side).iterdir()} for side in ("train", "val")}


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_ratio_and_the_manifest(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert prepare([many], output, train_ratio=0.9) == Split(36, 4)
    found = listing(output)
    assert len(found["train"]) == 36
    assert found["train"] | found["val"] == {path.name for path in many.iterdir()}
    assert not found["train"] & found["val"]
    for row in rows(output):
        link = output / row["path"]
        assert link.is_symlink()
        assert link.resolve() == Path(row["source"]) == many / link.name
        assert row["split"] == link.parent.name
        assert float(row["seconds"]) == pytest.approx(0.05)


def test_the_seed_decides(many: Path, tmp_path: Path) -> None:
    splits = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare([many], tmp_path / name, train_ratio=0.8, seed=seed)
        splits.append(listing(tmp_path / name))
    assert splits[0] == splits[1] != splits[2]


def test_a_speaker_is_on_one_side_only(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert prepare([many], output, train_ratio=0.75, group_by=r"^s\d") == Split(28, 12)
    sides: dict[str, set[str]] = {row["group"]: set() for row in rows(output)}
    for row in rows(output):
        sides[row["group"]].add(row["split"])
    assert len(sides) == 10
    assert all(len(side) == 1 for side in sides.values())


def test_speakers_may_be_named(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert prepare([many], output, group_by=r"^(s\d)", val_groups=["s3", "s7"]) == Split(32, 8)
    assert {row["group"] for row in rows(output) if row["split"] == "val"} == {"s3", "s7"}
    with pytest.raises(TrainerError, match=r"no recordings of \['s11'\]"):
        prepare([many], output, group_by=r"^(s\d)", val_groups=["s3", "s11"])


def test_folders_may_be_speakers_and_names_may_collide(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("anna", "ben", "cleo"):
        record(tmp_path / "in" / name / "1.wav", 0.1, seed=len(name))
    output = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        prepare([tmp_path / "in"], output, group_by="folder", val_groups=["cleo"])
    assert "1.wav is taken" in caplog.text
    assert len(listing(output)["train"]) == 2
    assert {(output / row["path"]).resolve() for row in rows(output)} == {
        tmp_path / "in" / name / "1.wav" for name in ("anna", "ben", "cleo")
    }


def test_a_recording_counts_once_however_it_is_reached(many: Path, tmp_path: Path) -> None:
    (many / "again.wav").symlink_to(many / "s0_0.wav")
    split = prepare([many, many / ".." / "in"], tmp_path / "out", train_ratio=0.9)
    assert sum(split) == 40


def test_running_again_replaces_the_last_split(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    prepare([many], output, train_ratio=0.9)
    (many / "s0_0.wav").unlink()
    (many / "s1_1.wav").unlink()
    assert prepare([many], output, train_ratio=0.5, copy=True) == Split(19, 19)
    found = listing(output)
    assert {len(found["train"]), len(found["val"])} == {19}
    assert not any(path.is_symlink() for path in output.rglob("*"))
    assert prepare([many], output, train_ratio=0.5) == Split(19, 19)


def test_output_within_input_is_not_input(many: Path) -> None:
    output = many / "dataset"
    for copy in (True, False, True):
        assert sum(prepare([many], output, train_ratio=0.9, copy=copy)) == 40
    with pytest.raises(TrainerError, match="no recordings but those prepared"):
        prepare([output], output, train_ratio=0.9)


@pytest.mark.parametrize("side", ["train", "val"])
def test_recordings_that_it_did_not_make_are_never_removed(
    many: Path, tmp_path: Path, side: str
) -> None:
    output = tmp_path / "out"
    mine = record(output / side / "mine.wav", 0.1, seed=1)
    with pytest.raises(TrainerError, match=r"mine\.wav was not put there by prepare"):
        prepare([many], output)
    assert [path for path in output.rglob("*") if path.is_file()] == [mine]

    mine.unlink()
    prepare([many], output)
    before = listing(output)
    record(mine, 0.1, seed=1)
    with pytest.raises(TrainerError, match=r"mine\.wav was not put there by prepare"):
        prepare([many], output)
    before[side].add("mine.wav")
    assert listing(output) == before


def test_input_and_output_may_not_be_the_same_real_data(tmp_path: Path) -> None:
    for number in range(4):
        record(tmp_path / "train" / f"{number}.wav", 0.1, seed=number)
    with pytest.raises(TrainerError):
        prepare([tmp_path / "train"], tmp_path)
    with pytest.raises(TrainerError):
        prepare([tmp_path], tmp_path)
    assert len(list((tmp_path / "train").iterdir())) == 4


def test_somebody_elses_manifest_is_left_alone(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "manifest.csv").write_text("path,text\ntrain/mine.wav,hello\n")
    with pytest.raises(TrainerError, match="was not made by prepare"):
        prepare([many], output)
    assert (output / "manifest.csv").read_text().startswith("path,text")


def test_a_run_that_was_killed_can_be_run_again(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    link = Path.symlink_to
    made: list[Path] = []

    def dies_after_ten(path: Path, target: Path) -> None:
        if len(made) == 10:
            raise KeyboardInterrupt
        made.append(path)
        link(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", dies_after_ten)
        with pytest.raises(KeyboardInterrupt):
            prepare([many], output, train_ratio=0.9)
    assert prepare([many], output, train_ratio=0.9) == Split(36, 4)
    assert sum(map(len, listing(output).values())) == 40


def test_a_file_name_that_is_not_text(many: Path, tmp_path: Path) -> None:
    (many / "s0_0.wav").rename(many / os.fsdecode(b"s0_\xff.wav"))
    output = tmp_path / "out"
    for _ in range(2):
        assert sum(prepare([many], output, train_ratio=0.9)) == 40


def test_both_sides_need_something(tmp_path: Path, many: Path) -> None:
    record(tmp_path / "one" / "a.wav", 0.1, seed=1)
    with pytest.raises(TrainerError, match="cannot be split"):
        prepare([tmp_path / "one"], tmp_path / "out")
    with pytest.raises(TrainerError, match="train_ratio must be between 0 and 1, not 1"):
        prepare([many], tmp_path / "out", train_ratio=1)
    with pytest.raises(TrainerError, match=r"'s\d_\d.wav' does not match '\^x'"):
        prepare([many], tmp_path / "out", group_by="^x")
    assert not (tmp_path / "out").exists()
