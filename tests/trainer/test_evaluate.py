from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from snac_core import audio, quality
from snac_core.codec import Codec
from tests.trainer.conftest import RATE, record
from trainer.errors import TrainerError
from trainer.evaluate import evaluate, to_markdown


@pytest.fixture(scope="module")
def report(tiny_codec: Codec, recordings: Path) -> dict[str, Any]:
    return evaluate(tiny_codec, recordings, group_by="^[a-z]+")


def test_figures_are_those_of_the_reconstruction(tiny_codec: Codec, report: dict[str, Any]) -> None:
    assert len(report["recordings"]) == 12
    assert report["skipped"] == 0
    one = next(row for row in report["recordings"] if row["path"].endswith("anna_1.wav"))
    samples = audio.read(one["path"], RATE)
    (result,) = tiny_codec.decode(tiny_codec.encode([samples]))
    assert one["stoi"] == pytest.approx(quality.stoi(samples, result, RATE), abs=1e-6)
    assert one["log_mel"] == pytest.approx(quality.log_mel_distance(samples, result, RATE))
    assert one["si_sdr"] == pytest.approx(quality.si_sdr(samples, result))
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_means_are_by_group_and_over_all(report: dict[str, Any]) -> None:
    assert list(report["groups"]) == ["anna", "ben", "cleo", "dan"]
    for name, row in {**report["groups"], "all": report["all"]}.items():
        members = [one for one in report["recordings"] if name in ("all", one["group"])]
        assert row["recordings"] == len(members)
        assert row["seconds"] == pytest.approx(sum(one["seconds"] for one in members))
        for figure in ("stoi", "log_mel", "si_sdr"):
            values = [one[figure] for one in members if one[figure] is not None]
            assert row[figure] == pytest.approx(sum(values) / len(values))


def test_a_group_ends_once_it_has_enough(tiny_codec: Codec, recordings: Path) -> None:
    report = evaluate(tiny_codec, recordings, group_by="^[a-z]+", max_seconds_per_group=1.5)
    assert {row["recordings"] for row in report["groups"].values()} == {2}


def test_long_recordings_are_cut_and_bad_ones_counted(
    tiny_codec: Codec,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.evaluate.LONGEST_SECONDS", 1.5)
    record(tmp_path / "long.wav", 2.0, seed=1)
    broken = np.full(RATE, np.nan, np.float32)
    soundfile.write(tmp_path / "nan.wav", broken, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    with caplog.at_level(logging.WARNING):
        report = evaluate(tiny_codec, tmp_path)
    assert "nan.wav has samples that are not finite" in caplog.text
    assert report["skipped"] == 1
    assert [one["seconds"] for one in report["recordings"]] == [1.5, 1.0]
    silent = report["recordings"][1]
    assert silent["stoi"] is None, "not defined for silence, and no part of a mean"
    assert math.isfinite(report["all"]["stoi"])
    (tmp_path / "long.wav").unlink()
    (tmp_path / "silent.wav").unlink()
    with pytest.raises(TrainerError, match="none of the 1 recordings"):
        evaluate(tiny_codec, tmp_path)


def test_the_table_has_a_row_for_each_group() -> None:
    row = {"recordings": 3, "seconds": 12.4, "stoi": 0.81239, "log_mel": 0.7, "si_sdr": -1.234}
    unknown = {"recordings": 1, "seconds": 1.0, "stoi": None, "log_mel": 0.5, "si_sdr": None}
    report = {"groups": {"anna": row, "ben": unknown}, "all": row}
    assert to_markdown(report).splitlines() == [
        "| group | recordings | seconds | STOI | log-mel L1 | SI-SDR (dB) |",
        "|---|---|---|---|---|---|",
        "| anna | 3 | 12 | 0.812 | 0.700 | -1.23 |",
        "| ben | 1 | 1 | - | 0.500 | - |",
        "| all | 3 | 12 | 0.812 | 0.700 | -1.23 |",
    ]
