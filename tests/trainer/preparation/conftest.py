from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.trainer.conftest import record


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


def rows(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(output / "manifest.parquet").to_pylist()
    return found
