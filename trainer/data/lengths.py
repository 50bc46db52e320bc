"""Recording lengths measured by `prepare`, so that files need not be opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.errors import TrainerError

MANIFEST = "manifest.parquet"
MEASURED_AS_THEY_ARE = b"measured_as_they_are"
"""Key of the manifest's metadata that says that it describes the files beside it: as links and
copies they are what was measured, and converted they are not."""


def describes(folder: Path) -> bool:
    """Return whether a manifest of `prepare` beside ``folder`` tells how long what it holds is.

    Raises
    ------
    TrainerError
        When the manifest cannot be read.
    """
    path = folder.parent / MANIFEST
    try:
        return path.is_file() and MEASURED_AS_THEY_ARE in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException) as error:
        raise TrainerError(f"{path} cannot be read: {error}") from error


def known_lengths(folder: Path) -> Mapping[str, tuple[int, int]]:
    """Return samples and sample rate (Hz) of recordings in ``folder``, by path relative to it.

    Empty unless a ``manifest.parquet`` of `prepare` beside ``folder`` describes them.

    Raises
    ------
    TrainerError
        When the manifest cannot be read.
    """
    if not describes(folder):
        return {}
    path = folder.parent / MANIFEST
    try:
        table = pq.read_table(
            path,
            columns=["path", "duration", "sample_rate"],
            filters=[("split", "==", folder.name)],
        )
    except (OSError, pa.ArrowException) as error:
        raise TrainerError(f"{path} cannot be read: {error}") from error
    names, seconds, rates = (column.to_pylist() for column in table.columns)
    start = len(folder.name) + 1
    return {
        name[start:]: (round(duration * rate), rate)
        for name, duration, rate in zip(names, seconds, rates, strict=True)
    }
