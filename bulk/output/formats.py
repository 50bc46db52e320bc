"""The files of an output: Parquet, WebDataset and JSON Lines, written and read as tables."""

from __future__ import annotations

import base64
import dataclasses
import io
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from snac_core.codes import Codes


@dataclasses.dataclass(frozen=True)
class Format:
    """How the rows of one file are written and read.

    Parameters
    ----------
    suffix
        Of the files.
    write
        A table into a file's bytes; the text names the file.
    read
        The way back, given the output's columns.
    """

    suffix: str
    write: Callable[[pa.Table, str], bytes]
    read: Callable[[bytes, pa.Schema], pa.Table]


def _write_parquet(table: pa.Table, name: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def _read_parquet(data: bytes, schema: pa.Schema) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))


def _write_jsonl(table: pa.Table, name: str) -> bytes:
    return b"".join(_json(row) + b"\n" for row in table.to_pylist())


def _read_jsonl(data: bytes, schema: pa.Schema) -> pa.Table:
    return _from_rows([orjson.loads(line) for line in data.splitlines()], schema)


def _write_tar(table: pa.Table, name: str) -> bytes:
    """Write a sample for each row: ``.json``, and ``.npz`` with the levels as `Codes` packs them.

    Samples are numbered within the file; the clip's id is in the JSON.
    """
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, row in enumerate(table.to_pylist()):
            names = [one for one in row if one.startswith("level_")]
            levels = [row.pop(one) for one in names]
            members = {"json": _json(row)}
            if levels:
                codes = Codes(tuple(levels), row["num_samples"], row["sample_rate"])
                members["npz"] = codes.to_npz()
            if isinstance(row.get("text"), str):
                members["txt"] = row["text"].encode()
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{name}-{number:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _read_tar(data: bytes, schema: pa.Schema) -> pa.Table:
    rows: dict[str, dict[str, Any]] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            content = tar.extractfile(member)
            assert content is not None
            row = rows.setdefault(key, {})
            if suffix == "json":
                row |= orjson.loads(content.read())
            elif suffix == "npz":
                levels = Codes.from_npz(content.read()).levels
                row |= {f"level_{number}": level for number, level in enumerate(levels)}
    return _from_rows(list(rows.values()), schema)


def _json(row: Mapping[str, Any]) -> bytes:
    return orjson.dumps(row, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(value: object) -> str:
    """Return what JSON has no form for: bytes in base64, and others as text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _from_rows(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table; a column whose type JSON does not have stays as JSON has it."""
    columns = {}
    for field in schema:
        values = [row.get(field.name) for row in rows]
        try:
            columns[field.name] = pa.array(values, field.type)
        except (pa.ArrowException, TypeError):
            columns[field.name] = pa.array(values)
    return pa.table(columns)


FORMATS = {
    "parquet": Format(".parquet", _write_parquet, _read_parquet),
    "webdataset": Format(".tar", _write_tar, _read_tar),
    "jsonl": Format(".jsonl", _write_jsonl, _read_jsonl),
}
