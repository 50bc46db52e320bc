from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from snac_core import audio
from tests.trainer.conftest import record
from tests.trainer.preparation.conftest import listing, rows
from trainer.data.shard_files import scan_shards, shard_paths
from trainer.errors import TrainerError
from trainer.preparation.catalog import Catalog
from trainer.preparation.prepare import CATALOG, Split, prepare


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
        assert row["duration"] == pytest.approx(0.05)


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
    (output / "manifest.parquet").write_text("of another program")
    with pytest.raises(TrainerError, match="was not made by prepare"):
        prepare([many], output)
    assert [path.name for path in output.iterdir()] == ["manifest.parquet"]
    assert (output / "manifest.parquet").read_text() == "of another program"


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
        prepare([tmp_path / "one"], tmp_path / "measured")
    with pytest.raises(TrainerError, match="train_ratio must be between 0 and 1, not 1"):
        prepare([many], tmp_path / "out", train_ratio=1)
    with pytest.raises(TrainerError, match=r"'s\d_\d.wav' does not match '\^x'"):
        prepare([many], tmp_path / "out", group_by="^x")
    assert not (tmp_path / "out").exists()


def snapshot(output: Path) -> dict[str, tuple[int, int, int]]:
    """What each file is and when it was last written; but not the catalog, which is asked."""
    states = {path: path.lstat() for path in output.rglob("*") if path.name != CATALOG}
    return {
        str(path): (state.st_ino, state.st_mtime_ns, state.st_size)
        for path, state in states.items()
    }


@pytest.mark.parametrize(
    "options", [{}, {"copy": True}, {"flac": True}, {"shards": True}], ids=lambda one: str(one)
)
def test_a_second_run_changes_nothing_and_reads_nothing(
    many: Path, tmp_path: Path, options: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    output, victim = tmp_path / "out", many / "s0_0.wav"
    first = prepare([many], output, train_ratio=0.8, **options)  # type: ignore[arg-type]
    before, state = snapshot(output), victim.stat()
    # Of the same size and time, so that only reading it could tell.
    victim.write_bytes(b"x" * state.st_size)
    os.utime(victim, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert prepare([many], output, train_ratio=0.8, **options) == first  # type: ignore[arg-type]
    assert snapshot(output) == before

    os.utime(victim)
    with caplog.at_level(logging.WARNING):
        assert sum(prepare([many], output, train_ratio=0.8, **options)) == 39  # type: ignore[arg-type]
    assert "skipped 1 of 40 files" in caplog.text
    assert str(victim) in (output / "unreadable.csv").read_text()
    assert str(victim) not in [row["source"] for row in rows(output)]


def test_adding_recordings_moves_few_of_the_others(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    prepare([many], output, train_ratio=0.8)
    before = listing(output)
    for number in range(4):
        shutil.copy(many / "s0_0.wav", many / f"new_{number}.wav")
    prepare([many], output, train_ratio=0.8)
    after = listing(output)
    assert len(before["val"] - after["val"]) <= 2
    assert len(after["train"]) + len(after["val"]) == 44


def test_the_split_does_not_depend_on_where_the_folder_is(many: Path, tmp_path: Path) -> None:
    prepare([many], tmp_path / "a", train_ratio=0.8)
    shutil.copytree(many, tmp_path / "elsewhere" / "deep")
    prepare([tmp_path / "elsewhere" / "deep"], tmp_path / "b", train_ratio=0.8)
    assert listing(tmp_path / "a") == listing(tmp_path / "b")


def test_the_manifest_says_what_a_recording_is(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    time = np.arange(2 * 48000) / 48000
    sine = np.stack([np.sin(2 * np.pi * 997 * time)] * 2, axis=1)
    soundfile.write(folder / "sine.wav", 0.5 * sine, 48000, subtype="FLOAT")
    soundfile.write(folder / "short.flac", 0.25 * sine[:9600, 0], 48000)
    soundfile.write(folder / "silent.ogg", np.zeros(24000), 24000)
    prepare([folder], tmp_path / "out", train_ratio=0.5)
    found = {row["source"].rsplit("/")[-1]: row for row in rows(tmp_path / "out")}
    assert found["sine.wav"]["duration"] == 2.0
    assert (found["sine.wav"]["sample_rate"], found["sine.wav"]["channels"]) == (48000, 2)
    assert found["sine.wav"]["peak"] == pytest.approx(0.5, abs=1e-4)
    # A full-scale sine of 997 Hz in one channel is -3.01 LUFS (ITU-R BS.1770-4, annex 1).
    assert found["sine.wav"]["loudness"] == pytest.approx(-3.01 - 6.02, abs=0.1)
    assert found["short.flac"]["loudness"] is None
    assert found["short.flac"]["peak"] == pytest.approx(0.25, abs=1e-3)
    assert found["silent.ogg"]["loudness"] is None
    assert {row["group"] for row in found.values()} == {None}


def test_unreadable_files_are_listed_with_the_reason(many: Path, tmp_path: Path) -> None:
    (many / "text.wav").write_text("no audio")
    (many / "gone.wav").symlink_to(many / "nowhere.wav")
    data = (many / "s0_0.wav").read_bytes()
    (many / "cut.wav").write_bytes(data[: len(data) // 2])
    (many / "empty.wav").touch()
    assert sum(prepare([many], tmp_path / "out", train_ratio=0.9)) == 40
    with (tmp_path / "out" / "unreadable.csv").open(newline="") as file:
        listed = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert sorted(listed) == ["cut.wav", "empty.wav", "gone.wav", "text.wav"]
    assert listed["gone.wav"] == "No such file or directory"
    assert "cut short" in listed["cut.wav"]
    assert "empty" in listed["empty.wav"]
    assert "not readable as audio" in listed["text.wav"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_lists_what_to_prepare(many: Path, tmp_path: Path, kind: str) -> None:
    listed = [
        {"path": f"in/{path.name}", "speaker": path.name[:2], "text": "what is said, or so"}
        for path in sorted(many.iterdir())[:20]
    ]
    manifest = tmp_path / f"list.{kind}"
    if kind == "csv":
        with manifest.open("w", newline="") as file:
            table = csv.DictWriter(file, list(listed[0]))
            table.writeheader()
            table.writerows(listed)
    elif kind == "jsonl":
        manifest.write_text("\n".join(map(json.dumps, listed)) + "\n\n")
    else:
        pq.write_table(pa.Table.from_pylist(listed), manifest)
    output = tmp_path / "out"
    split = prepare([manifest], output, group_by="speaker", val_groups=["s1"])
    assert split == Split(16, 4)
    assert {row["group"] for row in rows(output) if row["split"] == "val"} == {"s1"}
    # Several sources, in which a recording counts once.
    assert sum(prepare([manifest, many], tmp_path / "both", train_ratio=0.9)) == 40


def test_a_manifest_that_cannot_be_used(many: Path, tmp_path: Path) -> None:
    for name, text, said in (
        ("a.csv", "file,text\na.wav,hello\n", r"row 1 of .*a\.csv names no recording"),
        ("b.jsonl", '{"path": "a.wav", "speaker": 1}\n{"path": \n', r"b\.jsonl is not JSON lines"),
        ("c.jsonl", "[1]\n", "must have an object on each line"),
        ("d.parquet", "no table", r"d\.parquet cannot be read"),
        ("e.csv", "path,speaker\na.wav,\n", "row 1 of .* has nothing in its column speaker"),
        ("f.csv", "path\na.wav\n", r"'a\.wav' does not match 'speaker'"),
        ("g.txt", "a.wav", "is not a folder, nor a manifest"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(TrainerError, match=said):
            prepare([tmp_path / name], tmp_path / "out", group_by="speaker")
        assert not (tmp_path / "out").exists()


def test_conversion_to_flac(tmp_path: Path) -> None:
    record(tmp_path / "in" / "a.wav", 0.5, seed=1, rate=44100, channels=2)
    record(tmp_path / "in" / "a.ogg", 0.4, seed=2, rate=16000)
    output = tmp_path / "out"
    assert prepare([tmp_path / "in"], output, train_ratio=0.5, flac=True) == Split(1, 1)
    for row in rows(output):
        made = soundfile.info(output / row["path"])
        assert (made.format, made.samplerate, made.channels) == ("FLAC", 24000, 1)
        assert made.frames == pytest.approx(24000 * row["duration"], abs=1)
        plain = audio.read(row["source"], 24000)
        assert np.abs(audio.read(output / row["path"], 24000) - plain).max() < 2e-4
        assert (output / row["path"]).name.startswith("a")
    prepare([tmp_path / "in"], output, train_ratio=0.5, flac=True, sample_rate=32000)
    assert {soundfile.info(output / row["path"]).samplerate for row in rows(output)} == {32000}
    options: dict[str, Any] = {"flac": True, "shards": True, "sample_rate": 44100}
    prepare([tmp_path / "in"], output, train_ratio=0.5, **options)
    (clip,) = scan_shards(shard_paths(output / "train"))
    assert clip.sample_rate == 44100
    with pytest.raises(TrainerError, match="it needs flac"):
        prepare([tmp_path / "in"], output, sample_rate=32000)
    with pytest.raises(TrainerError, match="copy goes with neither"):
        prepare([tmp_path / "in"], output, copy=True, flac=True)


def test_one_channel_is_converted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(tmp_path / "in" / f"{name}.wav", 0.5, seed=1, rate=24000)
        left = soundfile.read(tmp_path / "in" / f"{name}.wav")[0]
        soundfile.write(tmp_path / "in" / f"{name}.wav", np.stack([left, -left], 1), 24000)
    output = tmp_path / "out"
    cases: list[tuple[audio.Channel, float]] = [("average", 0.0), (0, float(np.abs(left).max()))]
    for channel, peak in cases:
        prepare([tmp_path / "in"], output, train_ratio=0.5, flac=True, channel=channel)
        for row in rows(output):
            assert row["peak"] == pytest.approx(peak, abs=1e-4)
            made = audio.read(output / row["path"], 24000)
            assert np.abs(made).max() == pytest.approx(peak, abs=1e-4)
    with pytest.raises(TrainerError, match="it needs flac"):
        prepare([tmp_path / "in"], output, channel=1)


def test_strict_names_what_was_skipped_and_what_failed(
    many: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (many / "notes.txt").write_text("not audio")
    (many / "broken.wav").write_bytes(b"RIFF")
    output = many / "out"
    with pytest.raises(TrainerError, match="1 files failed and 1 were skipped"):
        prepare([many], output, train_ratio=0.9, strict=True)
    assert "whose suffix .txt is not read" in caplog.text
    with (output / "unreadable.csv").open(newline="") as file:
        reasons = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == {"notes.txt", "broken.wav"}
    assert reasons["notes.txt"] == "its suffix .txt is not read"
    assert len(rows(output)) == 40, "the others are in place"
    # Again, its own files are no input.
    assert prepare([many], output, train_ratio=0.9) == Split(36, 4)


def test_shards_hold_what_the_manifest_says(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    options: dict[str, Any] = {"train_ratio": 0.75, "group_by": r"^(s\d)", "flac": True}
    split = prepare([many], output, shards=True, shard_recordings=10, **options)
    assert split == Split(28, 12)
    assert sorted(path.name for path in (output / "train").glob("*.tar")) == [
        "000000.tar",
        "000001.tar",
        "000002.tar",
    ]
    for row in rows(output):
        shard, member = row["path"].split("#")
        with tarfile.open(output / shard) as tar:
            data = tar.extractfile(member)
            known = tar.extractfile(Path(member).with_suffix(".json").name)
            assert data is not None
            assert known is not None
            assert soundfile.info(data).samplerate == 24000
            assert json.load(known)["group"] == row["group"]
    # Back to links: what was made goes, and nothing else is left.
    assert prepare([many], output, **{**options, "flac": False}) == split
    assert not list(output.rglob("*.tar"))
    assert sum(map(len, listing(output).values())) == 40


def test_several_processes_find_the_same(many: Path, tmp_path: Path) -> None:
    for number in range(300):
        shutil.copy(many / "s0_0.wav", many / f"more_{number}.wav")
    prepare([many], tmp_path / "one", flac=True, jobs=1)
    prepare([many], tmp_path / "two", flac=True, jobs=2)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert listing(tmp_path / "one") == listing(tmp_path / "two")


def test_one_run_at_a_time(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    prepare([many], output, train_ratio=0.9)
    with (
        closing(Catalog(output / CATALOG)),
        pytest.raises(TrainerError, match="is in use by another run"),
    ):
        prepare([many], output, train_ratio=0.9)
