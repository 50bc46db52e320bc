"""What `prepare` says of recordings, and leaves out, by what it measured."""

from __future__ import annotations

import contextlib
import csv
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from tests.trainer.conftest import RATE, record, voice
from tests.trainer.preparation.conftest import rows
from trainer.preparation.prepare import CATALOG, Split, prepare


def test_what_is_too_short_long_quiet_or_loud_is_left_out(tmp_path: Path) -> None:
    for name, seconds, gain in (
        ("good", 1.0, 1.0),
        ("good2", 1.5, 1.0),
        ("short", 0.2, 1.0),
        ("long", 3.0, 1.0),
        ("quiet", 1.0, 0.05),
        ("loud", 1.0, 8.0),
        ("silent", 1.0, 0.0),
    ):
        path = tmp_path / "in" / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, gain * voice(seconds, 1), RATE, subtype="FLOAT")
    limits = {"min_seconds": 0.5, "max_seconds": 2.0, "min_loudness": -40.0, "max_loudness": -12.0}
    output = tmp_path / "out"
    assert prepare([tmp_path / "in"], output, train_ratio=0.5, **limits) == Split(1, 1)  # type: ignore[arg-type]
    with (output / "unreadable.csv").open(newline="") as file:
        reasons = {Path(row["path"]).stem: row["reason"] for row in csv.DictReader(file)}
    assert reasons == {
        "short": "it is shorter than 0.5 s",
        "long": "it is longer than 2 s",
        "quiet": "it is quieter than -40 LUFS",
        "loud": "it is louder than -12 LUFS",
        "silent": "it is quieter than -40 LUFS",
    }
    assert sum(prepare([tmp_path / "in"], output, train_ratio=0.5)) == 7


def test_odd_levels_and_equal_contents_are_told_with_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    record(folder / "a" / "1.wav", 0.5, seed=1)
    record(folder / "b" / "1.wav", 0.5, seed=2)
    # The same sound in another kind of file.
    samples, rate = soundfile.read(folder / "a" / "1.wav", dtype="int16")
    soundfile.write(folder / "b" / "copy.flac", samples, rate)
    soundfile.write(folder / "b" / "clipped.wav", np.sign(voice(0.5, 3)), RATE)
    soundfile.write(folder / "b" / "silent.wav", np.zeros(RATE), RATE)
    prepare([folder], tmp_path / "out", group_by="folder", val_groups=["a"])
    assert "1 of 5 recordings reach full scale" in caplog.text
    assert "1 of 5 recordings are silent" in caplog.text
    assert "1 of 1 recordings to validate on sound exactly like one to train on" in caplog.text
    assert "copy.flac" in caplog.text


def test_what_ends_at_a_lower_frequency_is_left_out(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)
    narrow = soxr.resample(soxr.resample(noise, RATE, 16000), 16000, RATE)
    recordings = {"a": noise, "b": noise[::-1], "narrow": narrow, "silent": 0 * noise}
    for name, samples in recordings.items():
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
    assert sum(prepare([folder], output, train_ratio=0.5)) == 4
    found = {Path(row["source"]).stem: row["bandwidth"] for row in rows(output)}
    assert found["a"] == found["b"] == RATE / 2
    assert found["narrow"] == pytest.approx(8000, abs=600)
    assert found["silent"] == 0
    # What was measured without a bandwidth is measured again when it is asked for.
    with contextlib.closing(sqlite3.connect(output / CATALOG)) as base, base:
        base.execute("UPDATE measured SET bandwidth = NULL")
    assert prepare([folder], output, train_ratio=0.5, min_bandwidth=10000) == Split(1, 1)
    with (output / "unreadable.csv").open(newline="") as file:
        reasons = {Path(row["path"]).stem: row["reason"] for row in csv.DictReader(file)}
    assert reasons == dict.fromkeys(("narrow", "silent"), "its band ends below 10000 Hz")


def test_what_an_earlier_version_measured_is_kept(tmp_path: Path) -> None:
    for number in range(3):
        record(tmp_path / "in" / f"{number}.wav", 0.2, seed=number)
    output = tmp_path / "out"
    prepare([tmp_path / "in"], output, train_ratio=0.6)
    shutil.rmtree(output / "train")
    base = sqlite3.connect(output / CATALOG)
    base.execute("ALTER TABLE measured DROP COLUMN content")
    base.execute("ALTER TABLE measured DROP COLUMN bandwidth")
    base.commit()
    base.close()
    assert sum(prepare([tmp_path / "in"], output, train_ratio=0.6)) == 3
