"""Writes one Parquet row per recording as results arrive."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from snac_core import audio
from snac_core.types import Samples
from snac_core.utils import atomic_files
from trainer.evaluation.models import ALONE, BASE, FINETUNED

FOLDER = "samples"

ORIGINAL = "original"


ROWS_AT_ONCE = 1024


class PerFile:
    """A Parquet file of text and float64 columns, there whole or not at all.

    Parameters
    ----------
    path
        Where it will be.
    texts, numbers
        The columns' names. A number that is missing from a row or not finite becomes null.
    """

    def __init__(self, path: Path, texts: Sequence[str], numbers: Sequence[str]) -> None:
        self.path, self.texts, self.numbers = path, texts, numbers
        self._rows: list[Mapping[str, str | float]] = []
        self._schema = pa.schema(
            [(name, pa.string()) for name in texts] + [(name, pa.float64()) for name in numbers]
        )
        self._unfinished = atomic_files.temporary(path)
        self._writer = pq.ParquetWriter(self._unfinished, self._schema, compression="zstd")

    def __enter__(self) -> PerFile:
        return self

    def add(self, row: Mapping[str, str | float]) -> None:
        """Write one row, sooner or later."""
        self._rows.append(row)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        columns: list[list[str | float | None]] = [
            [row[name] for row in self._rows] for name in self.texts
        ]
        columns += [[_finite(row.get(name)) for row in self._rows] for name in self.numbers]
        arrays = [
            pa.array(column, kind.type) for column, kind in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._flush()
            self._writer.close()
            if error is None:
                self._unfinished.replace(self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)


def _finite(value: str | float | None) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


class KeptSamples:
    """Numbered WAV files ``samples/NNN_{original,base,finetuned}.wav``.

    Those of an evaluation before are removed.

    Parameters
    ----------
    output_dir
        Where the folder is made.
    sample_rate
        Hz.
    """

    def __init__(self, output_dir: Path, sample_rate: int) -> None:
        self.folder, self.sample_rate = output_dir / FOLDER, sample_rate
        self.kept: list[dict[str, Any]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (ORIGINAL, BASE, FINETUNED, ALONE):
            for old in self.folder.glob(f"[0-9][0-9][0-9]_{name}.wav"):
                old.unlink()

    def keep(
        self, path: str, group: str, reference: Samples, made: Mapping[str, Samples]
    ) -> dict[str, Any]:
        """Write a recording, [T], and its reconstructions, and return what is noted of it."""
        number = f"{len(self.kept):03d}"
        files = {}
        for name, samples in {ORIGINAL: reference, **made}.items():
            files[name] = f"{FOLDER}/{number}_{name}.wav"
            audio.write(self.folder / f"{number}_{name}.wav", samples, self.sample_rate)
        self.kept.append({"number": number, "path": path, "group": group, "files": files})
        return self.kept[-1]
