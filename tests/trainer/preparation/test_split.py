"""Which recordings are validated on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.trainer.conftest import record
from tests.trainer.preparation.conftest import listing, rows
from trainer.errors import TrainerError
from trainer.preparation.prepare import Split, prepare


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


def test_a_group_that_is_not_there_is_told_before_anything_is_measured(
    many: Path, tmp_path: Path
) -> None:
    # Were it opened, it would be told.
    (many / "s9_9.wav").write_text("no audio")
    output = tmp_path / "out"
    for name in (output, tmp_path / "there"):
        with pytest.raises(TrainerError, match=r"no recordings of \['s11'\]; groups are \['s0'"):
            prepare([many], name, group_by=r"^(s\d)", val_groups=["s3", "s11"])
        (tmp_path / "there").mkdir(exist_ok=True)
    assert not output.exists()
    assert not list((tmp_path / "there").iterdir())


def test_what_was_measured_is_kept_when_it_cannot_be_split(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(TrainerError, match="1 groups of recordings cannot be split"):
        prepare([many], output, group_by="folder")
    first = many / "s0_0.wav"
    state = first.stat()
    first.write_bytes(bytes(state.st_size))
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
    # Were it read again, it would be left out.
    assert sum(prepare([many], output, train_ratio=0.9)) == 40


def test_a_group_too_large_for_its_share_is_not_validated_on(tmp_path: Path) -> None:
    for group, count in (("a", 14), ("b", 2), ("c", 2), ("d", 2)):
        for number in range(count):
            record(tmp_path / "in" / group / f"{number}.wav", 0.05, seed=number)
    for seed in range(4):
        split = prepare([tmp_path / "in"], tmp_path / "out", group_by="folder", seed=seed)
        assert split == Split(18, 2)
