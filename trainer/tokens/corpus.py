"""Reads a tokenized corpus in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from snac_core.codes import Codes
from snac_core.errors import CodesError
from trainer.errors import TrainerError

Array = npt.NDArray[np.int64]

ROWS_AT_ONCE = 256
ERRORS = "errors.parquet"
"""What `snac-bulk` writes beside its shards."""
MOST_LISTED = 200
"""Unusable recordings that are named; the others are counted."""


class Batch(NamedTuple):
    """Codes of some recordings, one after the other."""

    levels: list[Array]
    """One array per level, coarse to fine: [codes of all recordings]."""
    frames: Array
    """How many codes each recording has in level 0, [recordings]."""
    seconds: float


class Corpus:
    """The recordings of a folder: Parquet shards as `snac-bulk` writes them, and npz codes.

    All have the shape of the first: as many levels, with as many codes for each of level 0.
    What is not so, or holds codes beyond the codebook, is listed and left out.

    Parameters
    ----------
    folder
        Searched in depth for ``.parquet`` and ``.npz``.
    codebook_size
        Codes run from 0 to ``codebook_size - 1``.

    Raises
    ------
    TrainerError
        When there are no such files.
    """

    def __init__(self, folder: Path, codebook_size: int) -> None:
        self.folder, self.codebook_size = folder, codebook_size
        self.files = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix in (".parquet", ".npz") and path.name != ERRORS
        )
        if not self.files:
            raise TrainerError(f"no .parquet or .npz files of codes under {folder}")
        self.token_space: str | None = None
        self.per_frame: list[int] | None = None
        self.skipped = 0
        self.listed: list[dict[str, str]] = []

    def batches(self, path: Path) -> Iterator[Batch]:
        """Yield the usable recordings of one file.

        Raises
        ------
        TrainerError
            When a shard is not one, or its token space is another than that of those before.
        """
        if path.suffix == ".npz":
            try:
                codes = Codes.from_npz(path.read_bytes())
            except (CodesError, OSError) as error:
                self._skip(str(path), str(error))
                return
            levels = [level.astype(np.int64) for level in codes.levels]
            lengths = [np.array([len(level)]) for level in levels]
            yield from self._usable([str(path)], levels, lengths, np.array([codes.duration]))
            return
        try:
            with pq.ParquetFile(path) as shard:
                names = sorted(
                    (name for name in shard.schema_arrow.names if name.startswith("level_")),
                    key=lambda name: int(name.removeprefix("level_")),
                )
                others = ("path", "token_space", "error", "duration")
                columns = [*names, *(name for name in others if name in shard.schema_arrow.names)]
                if not names:
                    raise TrainerError(f"{path} has no columns level_0, level_1, ...")
                for part in shard.iter_batches(ROWS_AT_ONCE, columns=columns):
                    yield from self._rows(path, part, names)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise TrainerError(f"{path} is not a shard of tokens: {error}") from error

    def _rows(self, path: Path, part: pa.RecordBatch, names: Sequence[str]) -> Iterator[Batch]:
        known = part.schema.names
        if "path" in known:
            recordings = part["path"].to_pylist()
        else:
            recordings = [f"{path} row {row}" for row in range(part.num_rows)]
        if "token_space" in known:
            self._check_token_space(path, part["token_space"].drop_null().unique().to_pylist())
        present = np.ones(part.num_rows, bool)
        for name in names:
            present &= part[name].is_valid().to_numpy(zero_copy_only=False)
        reasons = part["error"].to_pylist() if "error" in known else [None] * part.num_rows
        for row in np.flatnonzero(~present):
            self._skip(recordings[row], reasons[row] or "it has no codes")
        part = part.filter(pa.array(present))
        levels = [part[name].flatten().to_numpy(zero_copy_only=False) for name in names]
        lengths = [
            part[name].value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
            for name in names
        ]
        seconds = np.zeros(part.num_rows)
        if "duration" in known:
            seconds = part["duration"].fill_null(0.0).to_numpy(zero_copy_only=False)
        kept = [recordings[row] for row in np.flatnonzero(present)]
        yield from self._usable(
            kept, [level.astype(np.int64) for level in levels], lengths, seconds
        )

    def _usable(
        self,
        recordings: list[str],
        levels: list[Array],
        lengths: list[Array],
        seconds: npt.NDArray[np.float64],
    ) -> Iterator[Batch]:
        """Yield one batch of those recordings whose codes and lengths are as they should be."""
        faults = self._faults(levels, lengths)
        for row in sorted(faults):
            self._skip(recordings[row], faults[row])
        good = np.array([row not in faults for row in range(len(recordings))], bool)
        if good.any():
            yield Batch(
                [
                    level[np.repeat(good, length)]
                    for level, length in zip(levels, lengths, strict=True)
                ],
                lengths[0][good],
                float(seconds[good].sum()),
            )

    def _faults(self, levels: list[Array], lengths: list[Array]) -> dict[int, str]:
        """Return what is wrong with which recordings, by their place."""
        coarse = lengths[0]
        faults = {int(row): "it has no codes" for row in np.flatnonzero(coarse == 0)}
        if self.per_frame is None:
            if not coarse.any():
                return faults
            first = int(np.flatnonzero(coarse)[0])
            self.per_frame = [int(length[first] // coarse[first]) for length in lengths]
        if len(lengths) != len(self.per_frame):
            reason = f"it has {len(lengths)} levels, and those before have {len(self.per_frame)}"
            return dict.fromkeys(range(len(coarse)), reason)
        for level, (codes, length) in enumerate(zip(levels, lengths, strict=True)):
            expected = coarse * self.per_frame[level]
            for row in map(int, np.flatnonzero(length != expected)):
                faults.setdefault(
                    row,
                    f"level {level} holds {length[row]} codes; {expected[row]} go with "
                    f"{coarse[row]} of level 0",
                )
            wrong = np.flatnonzero((codes < 0) | (codes >= self.codebook_size))
            rows = np.searchsorted(np.cumsum(length), wrong, side="right")
            for place, row in zip(wrong.tolist(), rows.tolist(), strict=True):
                faults.setdefault(
                    row,
                    f"level {level} holds code {codes[place]}, outside 0..{self.codebook_size - 1}",
                )
        return faults

    def _check_token_space(self, path: Path, spaces: list[str]) -> None:
        for space in spaces:
            if self.token_space not in (None, space):
                raise TrainerError(
                    f"{path} holds codes of token space {space}, and the shards before of "
                    f"{self.token_space}; their statistics do not go together"
                )
            self.token_space = space

    def _skip(self, recording: str, reason: str) -> None:
        self.skipped += 1
        if len(self.listed) < MOST_LISTED:
            self.listed.append({"path": recording, "reason": reason})
