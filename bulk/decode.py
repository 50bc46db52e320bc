"""``snac-bulk decode``: rows of codes back into recordings."""

from __future__ import annotations

import collections
import dataclasses
import posixpath
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayActorError

from bulk import cluster, filesystems
from bulk.encoder import Encoder
from bulk.errors import OutputError
from bulk.output import Output, RowWriter
from snac_core import audio
from snac_core.audio import AudioFormat
from snac_core.errors import CodesError, TokenSpaceError
from snac_core.store import checkpoint
from snac_core.store.checkpoint import Checkpoint

SHARDS_AHEAD = 2
"""For each codec: it never waits for the next."""

ROWS_AT_ONCE = 16
ATTEMPTS = 3
"""Losses of a process with the same shard after which the run fails."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What became of one shard, or of all: recordings written and already there, and faults."""

    written: int = 0
    skipped: int = 0
    seconds: float = 0.0
    faults: tuple[tuple[str, str], ...] = ()
    """Ids, and why each could not be decoded."""

    def plus(self, other: Decoded) -> Decoded:
        """Return the sum of two."""
        return Decoded(
            self.written + other.written,
            self.skipped + other.skipped,
            self.seconds + other.seconds,
            self.faults + other.faults,
        )


class Decoder:
    """A codec in an actor that decodes shards."""

    def __init__(self, model: Checkpoint, device: str, folder: str) -> None:
        self.codec = Encoder(model, device).codec
        self.output = Output(folder)
        self.output.load()
        self.rows = row_writer(self.output, model)

    def decode(self, shard: str, target: str, suffix: str, kind: AudioFormat) -> Decoded:
        """Write the recordings of one shard that are not there yet."""
        total = Decoded()
        table = self.output.read_shard(shard)
        for first in range(0, table.num_rows, ROWS_AT_ONCE):
            places, codes = [], []
            for row in table.slice(first, ROWS_AT_ONCE).to_pylist():
                place = f"{target}/{recording_name(row['id'], suffix)}"
                if filesystems.exists(place):
                    total = total.plus(Decoded(skipped=1))
                    continue
                try:
                    codes.append(self.rows.codes(row))
                    places.append(place)
                except CodesError as error:
                    total = total.plus(Decoded(faults=((row["id"], str(error)),)))
            for place, samples in zip(places, self.codec.decode(codes), strict=True):
                data = audio.encode_bytes(samples, self.codec.sample_rate, kind)
                filesystems.make_folder(filesystems.parent(place))
                filesystems.write_bytes(place, data)
                seconds = len(samples) / self.codec.sample_rate
                total = total.plus(Decoded(written=1, seconds=seconds))
        return total


def decode(
    folder: str,
    target: str,
    model_ref: str,
    *,
    suffix: str = ".wav",
    device: str = "cpu",
    codecs: int | None = None,
) -> Decoded:
    """Decode every row of an output; recordings that are there are left alone.

    Parameters
    ----------
    folder
        An output of `bulk.encode`.
    target
        Where recordings go; each is named by its id.
    model_ref
        A model of the token space of the codes.
    suffix
        ``.wav``, ``.flac``, ``.ogg`` or ``.opus``.
    device, codecs
        As `bulk.encode.EncodeOptions` takes them.

    Raises
    ------
    SnacError
        When the folder, or the model, cannot be used for this.
    """
    output = Output(folder)
    output.load()
    model = checkpoint.read(model_ref)
    check_token_space(output, model)
    if output.row_options.drop_repeated_frames:
        raise OutputError("rows without their repeated frames cannot be decoded")
    kind = audio.format_of(f"x{suffix}")
    target = filesystems.absolute(target)
    total = Decoded()
    arguments = (target, suffix, kind)
    for made in each_shard(output, Decoder, model, device, codecs, "decode", arguments):
        total = total.plus(made)
    return total


def each_shard(
    output: Output,
    worker: Callable[..., Any],
    model: Checkpoint,
    device: str,
    codecs: int | None,
    method: str,
    arguments: tuple[Any, ...],
) -> Iterator[Any]:
    """Have actors do something with each shard of an output, and yield what they return.

    Parameters
    ----------
    worker
        Class of the actors; made of the model, the device and the folder.
    method
        Of ``worker``; called with a shard's name and ``arguments``.
    """
    shards = list(output.shards())
    count = min(codecs or cluster.room(device), max(1, len(shards)))
    options = cluster.resources(device).codec
    made = ray.remote(worker).options(max_restarts=0, **options)
    reference = ray.put(model)
    actors = [made.remote(reference, device, output.folder) for _ in range(count)]
    busy: dict[Any, tuple[Any, str]] = {}
    failed: collections.Counter[str] = collections.Counter()
    left = iter(shards)

    def give(actor: Any, shard: str | None) -> None:
        if shard is not None:
            busy[getattr(actor, method).remote(shard, *arguments)] = actor, shard

    try:
        for actor in actors * SHARDS_AHEAD:
            give(actor, next(left, None))
        while busy:
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            actor, shard = busy.pop(ready)
            try:
                done = ray.get(ready)
            except RayActorError:
                # Its process or node is lost: another does the same again.
                failed[shard] += 1
                if failed[shard] == ATTEMPTS:
                    raise
                if actor in actors:
                    actors.remove(actor)
                    actors.append(made.remote(reference, device, output.folder))
                give(actors[-1], shard)
            else:
                give(actor, next(left, None))
                yield done
    finally:
        for actor in actors:
            ray.kill(actor)


def check_token_space(output: Output, model: Checkpoint) -> None:
    """Raise TokenSpaceError unless a model can decode the codes of an output."""
    if output.settings["token_space"] != model.token_space:
        raise TokenSpaceError(
            f"{output.folder} holds codes of token space {output.settings['token_space']}, and "
            f"the model {model.version} is of {model.token_space}"
        )


def row_writer(output: Output, model: Checkpoint) -> RowWriter:
    """Return what reads the codes of an output's rows."""
    version, space = output.settings["model_version"], output.settings["token_space"]
    return RowWriter(model.config, version, space, output.carried, output.row_options)


def recording_name(clip_id: str, suffix: str) -> str:
    """Return the path, relative to a folder, of the recording of a clip.

    Raises
    ------
    OutputError
        For an id that leads out of the folder.
    """
    name = posixpath.normpath(clip_id.split("://", 1)[-1].lstrip("/"))
    if name.startswith("../") or name in ("..", "."):
        raise OutputError(f"the id {clip_id!r} is no name of a file within the folder")
    return name if name.lower().endswith(suffix) else name + suffix
