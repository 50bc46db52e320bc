"""Tokenize a folder of recordings into Parquet shards.

Ray Data hands blocks of paths to actors. Each actor holds a codec, reads and encodes the
files of a block and writes them as one shard; a run that is killed loses only the blocks
it had under way, and the next run takes up what is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

import snac_core
from bulk.shards import paths_done, shard_schema, write_shard
from snac_core import audio
from snac_core.audio import AUDIO_SUFFIXES
from snac_core.errors import AudioError, SnacError, TokenSpaceError
from snac_core.store import checkpoint

FILES_PER_SHARD = 256
"""Most files in one block: the work that a killed run repeats, for each actor."""

SECONDS_PER_CALL = 120.0
"""Audio that an actor holds decoded before it encodes; one longer file goes alone."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run has done so far.

    Parameters
    ----------
    tokenized
        Files whose codes were written.
    failed
        Files that could not be read; their rows say why.
    skipped
        Files that the output already held.
    remaining
        Files still to do; 0 when the run is over.
    seconds
        Audio-seconds of the tokenized files.
    """

    tokenized: int
    failed: int
    skipped: int
    remaining: int
    seconds: float

    @property
    def total(self) -> int:
        """All files found."""
        return self.tokenized + self.failed + self.skipped + self.remaining

    def plus(self, shard: Mapping[str, Any]) -> Summary:
        """Add what `Tokenizer` says of one shard."""
        return dataclasses.replace(
            self,
            tokenized=self.tokenized + shard["tokenized"],
            failed=self.failed + shard["failed"],
            remaining=self.remaining - shard["tokenized"] - shard["failed"],
            seconds=self.seconds + shard["seconds"],
        )


class Tokenizer:
    """A codec in a Ray actor: a block of paths in, a shard on disk.

    Raises
    ------
    TokenSpaceError
        If the model found under ``model_ref`` is no longer of ``token_space``.
    """

    def __init__(
        self, input_dir: Path, output_dir: Path, model_ref: str, device: str, token_space: str
    ) -> None:
        self.input_dir = input_dir
        self.output_dir = output_dir
        self.codec = snac_core.load(model_ref, device=device)
        if self.codec.token_space != token_space:
            raise TokenSpaceError(
                f"{model_ref} now is of token space {self.codec.token_space}, and this run began "
                f"with {token_space}"
            )
        self.schema = shard_schema(self.codec.config)

    def __call__(self, block: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[float]]:
        """Write the shard of ``block["path"]`` and return one row that sums it up."""
        table = self.tokenize(block["path"].tolist())
        write_shard(self.output_dir, table)
        failed = table.num_rows - table["error"].null_count
        seconds = sum(table["duration"].drop_null().to_pylist())
        return {
            "tokenized": [table.num_rows - failed],
            "failed": [failed],
            "seconds": [seconds],
        }

    def tokenize(self, paths: Sequence[str]) -> pa.Table:
        """Return one row for each path; see ``shard_schema``."""
        rows: dict[str, dict[str, Any]] = {}
        waiting: dict[str, np.ndarray[Any, Any]] = {}
        for path in paths:
            try:
                waiting[path] = audio.read(self.input_dir / path, self.codec.sample_rate)
            except (AudioError, OSError) as error:
                rows[path] = self._row(path, error=str(error))
            if sum(map(len, waiting.values())) > SECONDS_PER_CALL * self.codec.sample_rate:
                rows |= self._encode(waiting)
                waiting = {}
        rows |= self._encode(waiting)
        return pa.Table.from_pylist([rows[path] for path in paths], schema=self.schema)

    def _encode(self, waves: dict[str, np.ndarray[Any, Any]]) -> dict[str, dict[str, Any]]:
        encoded = self.codec.encode(list(waves.values()))
        return {
            path: self._row(
                path,
                duration=codes.duration,
                num_samples=codes.num_samples,
                sample_rate=codes.sample_rate,
                **{f"level_{level}": values for level, values in enumerate(codes.levels)},
            )
            for path, codes in zip(waves, encoded, strict=True)
        }

    def _row(self, path: str, **columns: Any) -> dict[str, Any]:
        return {
            "path": path,
            "model_version": self.codec.version,
            "token_space": self.codec.token_space,
            **columns,
        }


def tokenize_corpus(
    input_dir: Path,
    output_dir: Path,
    model_ref: str = "starter",
    *,
    num_actors: int = 1,
    device: str = "cpu",
    files_per_shard: int = FILES_PER_SHARD,
    report: Callable[[Summary], None] | None = None,
) -> Summary:
    """Tokenize every recording under ``input_dir`` that ``output_dir`` does not hold yet.

    Runs on the Ray cluster that the process is connected to, or starts one on this machine.
    On a cluster, both folders and a model folder must be at the same place on every node.

    Parameters
    ----------
    input_dir
        Searched through all its folders; see `snac_core.audio.AUDIO_SUFFIXES`.
    output_dir
        Made if missing. Rows name files by their path relative to ``input_dir``.
    model_ref
        Anything that ``snac_core.load`` takes.
    num_actors
        Codecs at work at once, each on one CPU core or, for a ``cuda`` device, one GPU.
    device
        Torch device of every actor.
    files_per_shard
        Most files in one shard.
    report
        Called with what has been done so far, at the start and whenever a shard is written.

    Raises
    ------
    SnacError
        If ``input_dir`` holds no recordings, or ``output_dir`` something other than shards.
    TokenSpaceError
        If ``output_dir`` was begun with a model of another token space.
    """
    input_dir, output_dir = input_dir.resolve(), output_dir.resolve()
    if Path(model_ref).exists():
        model_ref = str(Path(model_ref).resolve())
    found = find_recordings(input_dir)
    # A bad reference fails here, before any actor starts.
    model = checkpoint.read(model_ref)
    output_dir.mkdir(parents=True, exist_ok=True)
    done = paths_done(output_dir, model.token_space)
    todo = [path for path in found if path not in done]
    summary = Summary(0, 0, skipped=len(found) - len(todo), remaining=len(todo), seconds=0.0)
    if report:
        report(summary)
    if not todo:
        return summary

    blocks = max(-(-len(todo) // files_per_shard), min(num_actors, len(todo)))
    shards = ray.data.from_items(
        [{"path": path} for path in todo], override_num_blocks=blocks
    ).map_batches(
        Tokenizer,
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=num_actors),
        num_cpus=1,
        num_gpus=1 if device.startswith("cuda") else None,
        fn_constructor_kwargs={
            "input_dir": input_dir,
            "output_dir": output_dir,
            "model_ref": model_ref,
            "device": device,
            "token_space": model.token_space,
        },
    )
    for shard in shards.iter_rows():
        summary = summary.plus(shard)
        if report:
            report(summary)
    return summary


def find_recordings(folder: Path) -> list[str]:
    """Return the recordings under ``folder``, as sorted paths relative to it.

    Raises
    ------
    SnacError
        If there are none.
    """
    if not folder.is_dir():
        raise SnacError(f"{folder} is not a folder of recordings")
    found = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()
    )
    if not found:
        raise SnacError(
            f"no recordings under {folder}; looked for {', '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return found
