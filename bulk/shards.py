"""Parquet shards: their columns, how one is written whole, and what a folder already holds."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from snac_core.config import SnacConfig
from snac_core.errors import SnacError, TokenSpaceError
from snac_core.utils import atomic_files


def shard_schema(config: SnacConfig) -> pa.Schema:
    """Return the columns of a shard for codes of one model shape.

    A recording that could not be read has its reason in ``error`` and nulls elsewhere.
    Codes are int16 where the codebook allows it, else int32.
    """
    code = pa.int16() if config.codebook_size <= 2**15 else pa.int32()
    levels = [(f"level_{level}", pa.list_(code)) for level in range(len(config.vq_strides))]
    return pa.schema(
        [
            ("path", pa.string()),
            ("duration", pa.float64()),
            ("num_samples", pa.int64()),
            ("sample_rate", pa.int32()),
            *levels,
            ("model_version", pa.string()),
            ("token_space", pa.string()),
            ("error", pa.string()),
        ]
    )


def paths_done(folder: Path, token_space: str) -> set[str]:
    """Return the ``path`` of every row in the shards of ``folder``.

    Raises
    ------
    TokenSpaceError
        If a shard holds codes of another token space: one folder, one token space.
    SnacError
        If a ``.parquet`` file there is not a shard.
    """
    done: set[str] = set()
    for shard in sorted(folder.glob("*.parquet")):
        try:
            table = pq.read_table(shard, columns=["path", "token_space"])
        except (pa.ArrowException, OSError) as error:
            raise SnacError(f"{shard} is not a shard of tokens: {error}") from error
        others = set(table["token_space"].unique().to_pylist()) - {token_space}
        if others:
            raise TokenSpaceError(
                f"{shard} holds codes of token space {others.pop()}, and the model's is "
                f"{token_space}; give another output folder or the model it was begun with"
            )
        done.update(table["path"].to_pylist())
    return done


def write_shard(folder: Path, table: pa.Table) -> Path:
    """Write ``table`` as one shard, which is there whole or not at all, and return its path.

    The name follows from the recordings in it: a task that is tried again replaces its shard.
    """
    paths = "\n".join(table["path"].to_pylist())
    digest = hashlib.sha256(paths.encode()).hexdigest()[:16]
    shard = io.BytesIO()
    pq.write_table(table, shard, compression="zstd")
    place = folder / f"tokens-{digest}.parquet"
    atomic_files.replace(place, shard.getvalue())
    return place
