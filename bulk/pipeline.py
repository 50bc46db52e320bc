"""Groups of clips through readers, codecs and writers on Ray.

A reader is an actor that yields batches of a group's audio, at most a few ahead of what is taken
from it. A codec is an actor, too; every batch goes to whichever is free, so that all work on one
long recording. A writer is an actor that joins the codes of a group with what is carried, and
writes one shard. None of them is a task, which may begin with the start of a process: seconds of a
core. The process here holds references alone. Where a process or a node is lost, the groups that
it had part in begin again; a group that keeps failing is halved until the clip that does it is
alone.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from bulk import cluster
from bulk.batches import Batch, Encoded
from bulk.encoder import Encoder
from bulk.errors import BulkError
from bulk.output import RowWriter, ShardWriter, Written, failed_ledger
from bulk.reading import GroupReader, ReadOptions
from snac_core.store.checkpoint import Checkpoint

BATCHES_PER_CODEC = 2
"""At work and waiting at each codec: it never waits for the next."""
CODECS_PER_WRITER = 4
BATCHES_AHEAD = 2
"""That a reader makes before the first is taken."""
ATTEMPTS = 3
"""Failures of a group after which it is halved."""
CHECK_SECONDS = 5.0
"""How often to look for room for more codecs."""


class Status(NamedTuple):
    """What the codec says of a batch, beside its codes."""

    seconds: float


@dataclasses.dataclass(eq=False)
class _Group:
    clips: pa.Table
    attempts: int = 0
    by: _Reader | None = None
    batches: Any = None
    encoded: list[Any] = dataclasses.field(default_factory=list)
    """References, in the order of the batches."""
    left: int = 0
    """Batches that are not encoded."""
    read: bool = False
    cancelled: bool = False


@dataclasses.dataclass(eq=False)
class _Reader:
    actor: Any
    busy: bool = False


@dataclasses.dataclass(eq=False)
class _Writer:
    actor: Any
    busy: int = 0


@dataclasses.dataclass(eq=False)
class _Codec:
    actor: Any
    ready: Any
    busy: int = 0
    up: bool = False


class _CodecActor:
    """`Encoder` as an actor: the answer's status apart, so that the caller need not fetch codes."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self._encoder = Encoder(checkpoint, device)

    def ready(self) -> None:
        """Return when the model is loaded."""

    def encode(self, batch: Batch) -> tuple[Status, Encoded]:
        """Encode a batch."""
        rate = self._encoder.codec.sample_rate
        return Status(len(batch.audio) / rate), self._encoder.encode(batch)


class Pipeline:
    """Readers, codecs and writers of one run.

    Parameters
    ----------
    checkpoint
        The model; it travels to the nodes.
    device
        Torch device of the codecs.
    options
        How clips are read.
    writing
        What a `ShardWriter` is made of.
    codecs
        How many; None fills the cluster, and what joins it later.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        options: ReadOptions,
        writing: tuple[str, Mapping[str, Any], RowWriter],
        codecs: int | None = None,
    ) -> None:
        wanted = cluster.resources(device)
        self._device, self._wanted = device, codecs
        self._model, self._options = ray.put(checkpoint), ray.put(options)
        self._writing_options = [ray.put(one) for one in writing]
        self._reader = ray.remote(GroupReader).options(
            max_restarts=0, scheduling_strategy="SPREAD", **wanted.reader
        )
        self._writer = ray.remote(ShardWriter).options(
            max_restarts=0, scheduling_strategy="SPREAD", num_cpus=0
        )
        self._codec = ray.remote(_CodecActor).options(
            max_restarts=0, scheduling_strategy="SPREAD", **wanted.codec
        )
        self._readers: list[_Reader] = []
        self._writers: list[_Writer] = []
        self._codecs: list[_Codec] = []
        self._up_since: float | None = None
        self._checked = 0.0
        self._groups: list[_Group] = []
        self._again: collections.deque[_Group] = collections.deque()
        self._batches: collections.deque[tuple[_Group, int, Any]] = collections.deque()
        self._encoding: dict[Any, tuple[_Group, _Codec]] = {}
        self._writing: dict[Any, tuple[_Group, _Writer | None]] = {}
        self.seconds = 0.0
        """Audio that has been encoded."""

    @property
    def codecs(self) -> int:
        """How many codecs are up."""
        return sum(codec.up for codec in self._codecs)

    @property
    def working(self) -> float:
        """Seconds since the first codec was up."""
        return 0.0 if self._up_since is None else time.monotonic() - self._up_since

    def run(self, groups: Iterator[pa.Table]) -> Generator[Written | None]:
        """Yield what becomes of each group, as it is written; None now and then in between.

        Closing the iterator ends all work that is under way.
        """
        try:
            more = True
            while True:
                self._fill_codecs()
                while more and self._reading < cluster.readers(len(self._codecs), self._device):
                    clips = next(groups, None)
                    more = clips is not None
                    if clips is not None:
                        self._begin(_Group(clips))
                while self._again:
                    self._begin(self._again.popleft())
                if not self._groups:
                    return
                yield from self._step()
        finally:
            self.close()

    def close(self) -> None:
        """End what is under way, and the codecs."""
        for group in self._groups:
            self._cancel(group)
        for actors in (self._readers, self._codecs, self._writers):
            for one in actors:
                ray.kill(one.actor)
        self._readers, self._codecs, self._writers, self._groups = [], [], [], []

    @property
    def _reading(self) -> int:
        # Not all groups: a reader goes on to the next while codecs still have its last batches.
        return sum(reader.busy for reader in self._readers)

    def _begin(self, group: _Group) -> None:
        self._groups.append(group)
        reader = next((one for one in self._readers if not one.busy), None)
        if reader is None:
            reader = _Reader(self._reader.remote(self._options))
            self._readers.append(reader)
        reader.busy, group.by = True, reader
        group.batches = reader.actor.read.options(
            num_returns="streaming", _generator_backpressure_num_objects=BATCHES_AHEAD
        ).remote(group.clips)

    def _step(self) -> Iterator[Written | None]:
        """Wait until something is ready, and take it."""
        waiting: list[Any] = [*self._encoding, *self._writing]
        waiting += [codec.ready for codec in self._codecs if not codec.up]
        readers = {}
        if len(self._batches) < BATCHES_PER_CODEC * max(1, len(self._codecs)):
            readers = {group.batches: group for group in self._groups if not group.read}
            waiting += readers
        ready, _ = ray.wait(waiting, num_returns=1, timeout=1.0, fetch_local=False)
        for one in ready:
            if one in readers:
                self._take_batch(readers[one])
            elif one in self._encoding:
                self._take_codes(one)
            elif one in self._writing:
                yield from self._take_shard(one)
            else:
                self._take_codec(one)
        self._hand_out()
        if not ready:
            yield None

    def _fill_codecs(self) -> None:
        if time.monotonic() < self._checked + CHECK_SECONDS and self._codecs:
            return
        self._checked = time.monotonic()
        wanted = self._wanted or cluster.room(self._device)
        while len(self._codecs) < wanted:
            actor: Any = self._codec.remote(self._model, self._device)
            self._codecs.append(_Codec(actor, actor.ready.remote()))

    def _take_codec(self, ready: Any) -> None:
        codec = next(one for one in self._codecs if one.ready is ready or one.ready == ready)
        try:
            ray.get(ready)
        except RayActorError as error:
            self._codecs.remove(codec)
            if self._up_since is None:
                # The model cannot be used here: no other codec would fare better.
                raise BulkError(f"no codec could be started: {error}") from error
            return
        codec.up = True
        if self._up_since is None:
            self._up_since = time.monotonic()

    def _take_batch(self, group: _Group) -> None:
        try:
            batch = next(group.batches)
        except StopIteration:
            group.read = True
            assert group.by is not None
            group.by.busy = False
            self._write_if_whole(group)
        except RayError as error:
            if group.by in self._readers:
                # Lost, or at fault.
                ray.kill(group.by.actor)
                self._readers.remove(group.by)
            self._failed(group, error)
        else:
            group.encoded.append(None)
            group.left += 1
            self._batches.append((group, len(group.encoded) - 1, batch))

    def _hand_out(self) -> None:
        up = [codec for codec in self._codecs if codec.up]
        while self._batches and up:
            codec = min(up, key=lambda one: one.busy)
            if codec.busy >= BATCHES_PER_CODEC:
                return
            group, number, batch = self._batches.popleft()
            if group.cancelled:
                continue
            status, encoded = codec.actor.encode.options(num_returns=2).remote(batch)
            group.encoded[number] = encoded
            codec.busy += 1
            self._encoding[status] = (group, codec)

    def _take_codes(self, status: Any) -> None:
        group, codec = self._encoding.pop(status)
        codec.busy -= 1
        try:
            self.seconds += ray.get(status).seconds
        except RayError as error:
            if isinstance(error, RayActorError) and codec in self._codecs:
                self._codecs.remove(codec)
                self._checked = 0.0
            self._failed(group, error)
            return
        group.left -= 1
        self._write_if_whole(group)

    def _write_if_whole(self, group: _Group) -> None:
        if group.read and not group.left and not group.cancelled:
            while len(self._writers) * CODECS_PER_WRITER < max(1, len(self._codecs)):
                self._writers.append(_Writer(self._writer.remote(*self._writing_options)))
            writer = min(self._writers, key=lambda one: one.busy)
            writer.busy += 1
            written = writer.actor.write.remote(group.clips, *group.encoded)
            self._writing[written] = (group, writer)

    def _take_shard(self, one: Any) -> Iterator[Written]:
        group, writer = self._writing.pop(one)
        if writer is not None:
            writer.busy -= 1
        try:
            written: Written = ray.get(one)
        except RayTaskError as error:
            # Not the clips are at fault but the output.
            raise error.cause from error
        except RayError as error:
            if isinstance(error, RayActorError) and writer in self._writers:
                self._writers.remove(writer)
            self._failed(group, error)
            return
        self._groups.remove(group)
        yield written

    def _failed(self, group: _Group, error: RayError) -> None:
        """Begin a group again, or its halves; a clip that is alone has failed."""
        if group.cancelled:
            return
        self._cancel(group)
        self._groups.remove(group)
        attempts, count = group.attempts + 1, group.clips.num_rows
        if attempts < ATTEMPTS:
            self._again.append(_Group(group.clips, attempts))
        elif count > 1:
            halves = group.clips.slice(0, count // 2), group.clips.slice(count // 2)
            self._again.extend(_Group(half, attempts - 1) for half in halves)
        else:
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
            lost = _Group(group.clips, attempts, cancelled=False)
            self._groups.append(lost)
            lost.read = True
            self._writing[ray.put(Written(failed_ledger(group.clips, reason), ""))] = (lost, None)

    def _cancel(self, group: _Group) -> None:
        group.cancelled = True
        if group.by in self._readers and not group.read:
            # An actor ends nothing that it has begun, unless it ends.
            ray.kill(group.by.actor)
            self._readers.remove(group.by)
