from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from snac_core.inference.windows import context_samples, plan
from tests.bulk.conftest import CONFIG, Encode, levels, record

Alone = Callable[..., list[list[int]]]


@pytest.mark.parametrize("seconds", [0.0, 71.99, 72.0, 72.45, 140.3])
def test_a_long_clip_in_pieces_gives_the_codes_of_the_whole(
    tmp_path: Path, encode_here: Encode, alone: Alone, seconds: float
) -> None:
    # Longer than a window with its context on both sides, and about whole runs of windows.
    rate = 16000
    path = record(tmp_path, "r.flac", rate, 1, round(seconds * rate) or 9 * rate + 7)
    assert len(plan(CONFIG, 24000 * 9, 8 * 24000)) > 1
    assert context_samples(CONFIG) < 24000
    table, told = encode_here(tmp_path, long_seconds=8.7, batch_seconds=30.0)
    assert told["status"].to_pylist() == ["done"]
    (row,) = table.to_pylist()
    assert levels(row) == alone(path)


def test_limits_of_length_leave_clips_out_with_the_reason(
    tmp_path: Path, encode_here: Encode
) -> None:
    for name, samples in {"1.wav": 12000, "2.wav": 24000, "3.wav": 48000}.items():
        record(tmp_path, name, 24000, 1, samples)
    table, told = encode_here(tmp_path, min_seconds=0.8, max_seconds=1.5)
    assert table["id"].to_pylist() == ["2.wav"]
    assert told["status"].to_pylist() == ["left out", "done", "left out"]
    first, _, third = told["reason"].to_pylist()
    assert first == "it lasts 0.500 s, and --min-seconds is 0.8"
    assert third == "it lasts at least 2.000 s, and --max-seconds is 1.5"


@pytest.mark.parametrize("channel", [0, 1, "loudest"])
def test_a_channel_may_be_chosen(
    tmp_path: Path, encode_here: Encode, alone: Alone, channel: str | int
) -> None:
    path = record(tmp_path, "r.wav", 24000, 2, 5000)
    table, _ = encode_here(tmp_path, channel=channel)
    assert levels(table.to_pylist()[0]) == alone(path, channel=channel)


def test_a_long_clip_that_is_damaged_late_gives_no_row(tmp_path: Path, encode_here: Encode) -> None:
    path = record(tmp_path, "r.flac", 24000, 1, 24000 * 80)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    table, told = encode_here(tmp_path, long_seconds=9.0, batch_seconds=30.0)
    assert table.num_rows == 0
    assert told["status"].to_pylist() == ["failed"]


def test_readers_load_neither_torch_nor_ray() -> None:
    program = "import sys, bulk.reading, bulk.output.rows; print({'torch', 'ray'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
