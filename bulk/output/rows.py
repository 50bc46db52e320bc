"""The rows of an output: ids, what is carried, codes, and the model that they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bulk.batches import Encoded
from bulk.errors import OutputError
from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.layouts import find_layout, from_layout, to_layout
from snac_core.types import Levels

TRAINING_LAYOUT = "orpheus"
CODES_LIST = "codes_list"
TOKENS = "codes"

LEDGER = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("version", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("seconds", pa.float64()),
    ]
)
"""What became of each clip: ``done``, ``left out`` as the run asks, or ``failed``."""

DONE, LEFT_OUT, FAILED = "done", "left out", "failed"


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """What the rows of an output have.

    Parameters
    ----------
    layout
        Of a column ``codes`` beside the levels; None for none.
    base
        Of that layout, or of the training rows.
    training_rows
        Whether to write ``text`` and ``codes_list`` in place of levels.
    drop_repeated_frames
        Whether training rows leave out frames that repeat the coarse code before them.
    text_column
        The carried column that becomes ``text`` in training rows.
    """

    layout: str | None = None
    base: int | None = None
    training_rows: bool = False
    drop_repeated_frames: bool = False
    text_column: str = "text"


class RowWriter:
    """Rows for codes of one model.

    Parameters
    ----------
    config, model_version, token_space
        The model.
    carried
        Columns of the input that go through, as `Plan` found them.
    options
        What else there is.

    Raises
    ------
    LayoutError
        For a layout that is not defined for the model, or a base out of place.
    OutputError
        For training rows of an input without texts.
    """

    def __init__(
        self,
        config: SnacConfig,
        model_version: str,
        token_space: str,
        carried: pa.Schema,
        options: RowOptions,
    ) -> None:
        self.config, self.options = config, options
        self.model_version, self.token_space = model_version, token_space
        self.layout = TRAINING_LAYOUT if options.training_rows else options.layout
        if self.layout is not None:
            find_layout(self.layout).offsets(config, options.base)
        if options.training_rows and options.text_column not in carried.names:
            raise OutputError(
                f"training rows need a text, and the input has no column {options.text_column!r}; "
                f"its columns are {', '.join(carried.names) or 'none'}; --text-column names one"
            )
        self.renamed = self._renamed(carried)
        self.schema = self._schema(carried)

    def rows(self, group: pa.Table, encoded: Iterable[Encoded]) -> tuple[pa.Table, pa.Table]:
        """Return the rows of a group's clips, and what became of each (`LEDGER`)."""
        levels, lengths, faults = _joined(encoded)
        count = group.num_rows
        good = [number for number in range(count) if number in lengths and number not in faults]
        clips = [Codes(levels[n], lengths[n], self.config.sampling_rate) for n in good]
        for codes in clips:
            codes.validate(self.config)
        chosen = group.take(pa.array(good, pa.int64()))
        columns: dict[str, Any] = {"id": chosen["id"], "path": chosen["path"]}
        for name, field in self.renamed.items():
            # A column that only other parts of the input have is null here.
            columns[field] = (
                chosen[f"carried.{name}"] if f"carried.{name}" in chosen.column_names else None
            )
        columns |= self._code_columns(clips)
        arrays = [_column(columns[field.name], field.type, len(good)) for field in self.schema]
        seconds = {n: codes.duration for n, codes in zip(good, clips, strict=True)}
        return pa.Table.from_arrays(arrays, schema=self.schema), _ledger(group, seconds, faults)

    @property
    def code_names(self) -> list[str]:
        """The columns of codes."""
        if self.options.training_rows:
            return [CODES_LIST]
        return [field.name for field in self.schema if field.name.startswith("level_")]

    def codes(self, row: Mapping[str, Any]) -> Codes:
        """Return the codes of one row of the output.

        Raises
        ------
        CodesError
            When it holds none that the model could have written.
        OutputError
            When repeated frames were dropped: the row no longer contains the whole audio.
        """
        if self.options.drop_repeated_frames:
            raise OutputError("rows without their repeated frames cannot be decoded")
        levels: object
        if self.options.training_rows:
            levels = from_layout(
                row[CODES_LIST], TRAINING_LAYOUT, config=self.config, base=self.options.base
            )
        else:
            levels = tuple(row[f"level_{n}"] for n in range(len(self.config.vq_strides)))
        codes = Codes(levels, row["num_samples"], row["sample_rate"])
        codes.validate(self.config)
        return codes

    def _code_columns(self, clips: Sequence[Codes]) -> dict[str, Any]:
        columns: dict[str, Any] = {
            "duration": [codes.duration for codes in clips],
            "num_samples": [codes.num_samples for codes in clips],
            "sample_rate": [codes.sample_rate for codes in clips],
            "model_version": [self.model_version] * len(clips),
            "token_space": [self.token_space] * len(clips),
        }
        for level in range(len(self.config.vq_strides)):
            columns[f"level_{level}"] = _lists([codes.levels[level] for codes in clips])
        if self.layout is not None:
            tokens = [self._tokens(codes.levels) for codes in clips]
            columns[CODES_LIST if self.options.training_rows else TOKENS] = tokens
        return columns

    def _tokens(self, levels: Levels) -> list[Any]:
        if self.options.drop_repeated_frames:
            levels = without_repeated_frames(levels, self.config)
        assert self.layout is not None
        return to_layout(levels, self.layout, config=self.config, base=self.options.base)

    def _own(self) -> list[pa.Field]:
        """Return the fields that are not carried, in order, carried ones left out."""
        code = pa.int16() if self.config.codebook_size <= 2**15 else pa.int32()
        fields = [pa.field("id", pa.string()), pa.field("path", pa.string())]
        after = [
            pa.field("duration", pa.float64()),
            pa.field("num_samples", pa.int64()),
            pa.field("sample_rate", pa.int32()),
        ]
        if self.options.training_rows:
            after.append(pa.field(CODES_LIST, pa.list_(pa.int32())))
        else:
            after += [
                pa.field(f"level_{level}", pa.list_(code))
                for level in range(len(self.config.vq_strides))
            ]
            if self.layout is not None:
                tokens = pa.list_(pa.int32())
                nested = pa.list_(tokens) if self.layout.startswith("mini-omni") else tokens
                after.append(pa.field(TOKENS, nested))
        after += [pa.field("model_version", pa.string()), pa.field("token_space", pa.string())]
        return fields + after

    def _renamed(self, carried: pa.Schema) -> dict[str, str]:
        """Return the output's name of each carried column: its own, unless the output has one."""
        taken = {field.name for field in self._own()}
        names = {}
        if self.options.training_rows:
            names[self.options.text_column] = "text"
            taken.add("text")
        for name in carried.names:
            if name not in names:
                names[name] = f"input_{name}" if name in taken else name
        return names

    def _schema(self, carried: pa.Schema) -> pa.Schema:
        own = self._own()
        through = [
            pa.field(
                new,
                pa.string()
                if pa.types.is_null(carried.field(name).type)
                else carried.field(name).type,
            )
            for name, new in self.renamed.items()
        ]
        return pa.schema([*own[:2], *through, *own[2:]])


def without_repeated_frames(levels: Levels, config: SnacConfig) -> Levels:
    """Leave out each coarse frame whose first code is that of the frame before it.

    It is what Orpheus' published recipe does to the codes of its training rows.
    """
    frames = len(levels[0]) // config.codes_per_frame[0]
    first = levels[0].reshape(frames, -1)[:, 0]
    kept = np.ones(frames, bool)
    kept[1:] = first[1:] != first[:-1]
    return tuple(level.reshape(frames, -1)[kept].reshape(-1) for level in levels)


def _joined(
    encoded: Iterable[Encoded],
) -> tuple[dict[int, Levels], dict[int, int], dict[int, tuple[str, str]]]:
    """Return the codes and lengths of clips, and the status and reason of those that have none."""
    parts: dict[int, list[Levels]] = {}
    lengths: dict[int, int] = {}
    faults: dict[int, tuple[str, str]] = {}
    for batch in encoded:
        for clip, levels in batch.codes:
            parts.setdefault(clip, []).append(levels)
        lengths |= batch.lengths
        for fault in batch.faults:
            faults[fault.clip] = (FAILED if fault.failed else LEFT_OUT, fault.reason)
    joined = {
        clip: runs[0] if len(runs) == 1 else tuple(map(np.concatenate, zip(*runs, strict=True)))
        for clip, runs in parts.items()
    }
    return joined, lengths, faults


def _ledger(
    group: pa.Table, seconds: Mapping[int, float], faults: Mapping[int, tuple[str, str]]
) -> pa.Table:
    lost = (FAILED, "it was not read to its end")
    told = [
        (DONE, None) if number in seconds else faults.get(number, lost)
        for number in range(group.num_rows)
    ]
    return pa.table(
        [
            group["id"],
            group["path"],
            group["version"],
            [status for status, _ in told],
            [reason for _, reason in told],
            [seconds.get(number) for number in range(group.num_rows)],
        ],
        LEDGER,
    )


def failed_ledger(group: pa.Table, reason: str) -> pa.Table:
    """Return what became of a group that could not be worked on at all."""
    return _ledger(group, {}, dict.fromkeys(range(group.num_rows), (FAILED, reason)))


def _lists(arrays: Sequence[npt.NDArray[np.int32]]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, arrays)])
    values = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _column(values: Any, kind: pa.DataType, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, kind)
    if isinstance(values, list):
        return pa.array(values, kind)
    column = values.cast(kind)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
