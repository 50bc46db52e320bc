"""Splits recordings from any source into ``train/`` and ``val/``."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from snac_core.audio import Channel, check_sample_rate
from snac_core.utils.commands import progress
from trainer.data.lengths import MANIFEST
from trainer.errors import TrainerError
from trainer.preparation import placing
from trainer.preparation.catalog import Catalog
from trainer.preparation.flac import SAMPLE_RATE
from trainer.preparation.inputs import Found, find, nothing_found
from trainer.preparation.manifest import (
    UNREADABLE,
    digest_of,
    write_manifest,
    write_unreadable,
)
from trainer.preparation.measure import Task, measure_all
from trainer.preparation.placing import SIDES
from trainer.runtime.workers import Workers, available

log = logging.getLogger(__name__)

CATALOG = ".prepare.sqlite"
PER_TASK = 32
"""Recordings that a process measures at a time."""
FEW = 256
"""Recordings that this process measures by itself."""
OWN_FILES = (CATALOG, f"{CATALOG}-journal", MANIFEST, UNREADABLE)
MOST_NAMED = 20
MODULES = ("trainer.preparation.measure", "trainer.preparation.flac")
"""What processes that read import."""
MOST_SKIPPED = 2048
"""Paths of skipped files that are in memory."""


FILTERS = (
    ("CAST(frames AS REAL) / sample_rate < ?", "it is shorter than {:g} s"),
    ("CAST(frames AS REAL) / sample_rate > ?", "it is longer than {:g} s"),
    (
        # Without loudness is also what is below the gate of its measure, -70 LUFS.
        "(loudness < ? OR peak < 0.0003)",
        "it is quieter than {:g} LUFS",
    ),
    ("loudness > ?", "it is louder than {:g} LUFS"),
    ("bandwidth < ?", "its band ends below {:g} Hz"),
)
"""Which recordings are left out, in SQL, and why."""

ODD_LEVELS = (
    ("peak >= 0.999", "reach full scale, and may be clipped"),
    ("peak = 0", "are silent"),
    ("peak > 0 AND (loudness < -50 OR peak < 0.003)", "are very quiet (below -50 LUFS)"),
    ("loudness > -6", "are very loud (above -6 LUFS)"),
)


class Split(NamedTuple):
    """What went where, in recordings."""

    train: int
    val: int


def prepare(
    inputs: Sequence[Path],
    output: Path,
    *,
    train_ratio: float = 0.95,
    seed: int = 42,
    group_by: str | None = None,
    val_groups: Sequence[str] = (),
    copy: bool = False,
    flac: bool = False,
    sample_rate: int = SAMPLE_RATE,
    shards: bool = False,
    shard_recordings: int = 10_000,
    shard_bytes: float = 1e9,
    min_seconds: float = 0.0,
    max_seconds: float = math.inf,
    min_loudness: float = -math.inf,
    max_loudness: float = math.inf,
    min_bandwidth: float = 0.0,
    jobs: int | None = None,
    channel: Channel = "average",
    strict: bool = False,
) -> Split:
    """Divide recordings into ``output/train`` and ``output/val``.

    ``output/manifest.parquet`` lists them (`trainer.preparation.manifest.SCHEMA`), and
    ``output/unreadable.csv`` those that cannot be read, with the reason. Each is read to its
    end for that, once: ``output/.prepare.sqlite`` remembers it, and a second run reads only
    what is new or has changed, changes only what is not yet as it should be, and removes
    what is no longer wanted. What this function did not put there is an error and stays.
    Memory does not grow with the number of recordings.

    Groups are ordered by a hash of the seed and their name, and the first go to ``val`` until
    it has its share, but for those that are too large for it: the ratio holds to within a group,
    whereas a group that went by its own hash alone would leave it to chance, and recordings that
    are added later move few of the others, as they would not stay put in a shuffled list. A
    recording without a group goes by its path within its input, so that the split is the same on
    every machine.

    Parameters
    ----------
    inputs
        Folders, searched in depth, and manifests of recordings; see `trainer.preparation.inputs`.
    output
        Folder to write to. It may lie within an input; what was prepared in it is not input.
    train_ratio
        Share of the recordings to train on, between 0 and 1.
    seed
        Decides the split.
    group_by
        Finds a recording's group, such as its speaker: a manifest's column, or else as
        `trainer.data.recordings.group_of` does. A group is never on both sides. None makes each
        recording a group.
    val_groups
        Groups that must go to ``val``; the ratio then does not apply.
    copy, flac, shards
        Copy files instead of linking to them; convert them to mono FLAC; or write WebDataset
        shards instead of files, with ``flac`` of the converted.
    sample_rate
        Hz of converted recordings: that of the model that they are for.
    shard_recordings, shard_bytes
        A shard is ended when it has so much.
    min_seconds, max_seconds, min_loudness, max_loudness, min_bandwidth
        Recordings that are shorter or longer (s), quieter or louder (LUFS), or that have nothing
        above a frequency (Hz, see `trainer.preparation.measure.bandwidth`) are left out, and
        listed in ``unreadable.csv``. One that is too short to have a loudness is too quiet only if
        it is as good as silent.
    jobs
        Processes that read; by default one for each processor at hand.
    channel
        Which channel is converted, with ``flac``: links and copies keep all of them.
    strict
        Whether files that cannot be read, or are skipped for their suffix, are an error once
        all others are in place.

    Raises
    ------
    TrainerError
        When there is nothing to read, a recording has no group, a side is empty, ``output``
        holds files that were not prepared, or another run is at work there; and where
        ``strict`` says so. What is known
        before anything is measured leaves no ``output`` that was not there before.
    OSError
        When a file cannot be written.
    """
    if not 0.0 < train_ratio < 1.0:
        raise TrainerError(f"train_ratio must be between 0 and 1, not {train_ratio}")
    if copy and (flac or shards):
        raise TrainerError("copy goes with neither flac nor shards, which are no links either")
    if val_groups and group_by is None:
        raise TrainerError("val_groups needs group_by, which says what a recording's group is")
    how = {
        (False, False): placing.COPY if copy else placing.LINK,
        (True, False): placing.FLAC,
        (False, True): placing.SHARDS,
        (True, True): placing.FLAC_SHARDS,
    }[flac, shards]
    if flac:
        check_sample_rate(sample_rate)
        how = placing.how_converted(how, sample_rate, channel)
    elif sample_rate != SAMPLE_RATE:
        raise TrainerError("sample_rate is that of converted recordings: it needs flac")
    elif channel != "average":
        raise TrainerError("channel is that of converted recordings: it needs flac")
    new = not (output / CATALOG).exists()
    if new and (output / MANIFEST).exists():
        raise TrainerError(f"{output / MANIFEST} was not made by prepare: choose another folder")
    there = output.exists()
    output.mkdir(parents=True, exist_ok=True)
    with (
        closing(Catalog(output / CATALOG)) as catalog,
        Workers(jobs or available(), MODULES) as workers,
    ):
        try:
            placing.check_strangers(output, catalog)
            own = [output.resolve() / name for name in (*SIDES, *OWN_FILES)]
            skipped: list[str] = []
            found = find(inputs, own, seed, group_by, skipped.append)
            if not catalog.want(_skipping(found, catalog, skipped)):
                raise nothing_found(inputs)
            catalog.skip(skipped)
            _check_groups(catalog, val_groups)
        except TrainerError:
            if new:
                catalog.remove()
            if not there:
                output.rmdir()
            raise
        # What is measured from here on is kept whatever happens.
        catalog.measured_as(str(channel))
        if min_bandwidth:
            catalog.need_bandwidth()
        _measure(catalog, workers, channel)
        limits = (min_seconds, max_seconds, min_loudness, max_loudness, min_bandwidth)
        for (condition, reason), limit in zip(FILTERS, limits, strict=True):
            if math.isfinite(limit) and limit != 0.0:
                catalog.leave_out(condition, limit, reason.format(limit))
        _choose(catalog, train_ratio, val_groups)
        placing.clear_unfinished(output)
        for side in SIDES:
            (output / side).mkdir(exist_ok=True)
        _report(output, catalog)
        if shards:
            size = (shard_recordings, shard_bytes)
            _place_shards(output, catalog, workers, size, how, group_by is not None)
        else:
            placing.give_names(catalog, flac)
            placing.place(output, catalog, how, workers)
            write_manifest(
                output / MANIFEST, catalog.by_name(), group_by is not None, converted=flac
            )
        failed, others = catalog.count_failed(), len(list(catalog.skipped()))
        if strict and (failed or others):
            raise TrainerError(
                f"{failed} files failed and {others} were skipped: {output / UNREADABLE} names "
                "them all; the others are in place"
            )
        return Split(catalog.count("train"), catalog.count("val"))


def _skipping(found: Iterator[Found], catalog: Catalog, skipped: list[str]) -> Iterator[Found]:
    """Yield what is found, and take down now and then what was skipped for it."""
    for one in found:
        if len(skipped) >= MOST_SKIPPED:
            catalog.skip(skipped)
            skipped.clear()
        yield one


def _check_groups(catalog: Catalog, val_groups: Sequence[str]) -> None:
    """Raise TrainerError for groups to validate on that nothing found belongs to."""
    if lacking := sorted(set(val_groups) - catalog.groups_among(val_groups)):
        raise TrainerError(
            f"no recordings of {lacking}; groups are {catalog.some_groups(MOST_NAMED)}"
        )


def _measure(catalog: Catalog, workers: Workers, channel: Channel) -> None:
    """Read what the catalog does not know yet."""
    count = catalog.count_unmeasured()
    if count < FEW:
        # Starting processes would take longer.
        workers = Workers(1)
    rows = catalog.unmeasured()
    waiting: deque[list[tuple[bytes, int, int]]] = deque()

    def tasks() -> Iterator[Task]:
        while page := list(islice(rows, PER_TASK)):
            waiting.append(page)
            yield Task([source for source, _, _ in page], channel)

    with progress(total=count, desc="measuring", unit="file") as bar:
        for results in workers.map(measure_all, tasks()):
            page = waiting.popleft()
            catalog.measured(zip(page, results, strict=True))
            bar.update(len(page))


def _choose(catalog: Catalog, train_ratio: float, val_groups: Sequence[str]) -> None:
    """Put the groups to validate on to their side: the named ones, or drawn ones."""
    total = catalog.count()
    if not total:
        reached, fault = next(catalog.faults())
        raise TrainerError(
            f"none of the recordings can be read: {os.fsdecode(reached)}, for one: {fault}"
        )
    groups = list(catalog.groups())
    if val_groups:
        chosen = [group for group, _ in groups if group in set(val_groups)]
    else:
        chosen = _drawn(groups, round(total * (1 - train_ratio)) or 1)
    if not chosen or len(chosen) == len(groups):
        raise TrainerError(
            f"{len(groups)} groups of recordings cannot be split {train_ratio:g} : "
            f"{1 - train_ratio:g} with something on both sides"
        )
    catalog.validate_on(chosen)


def _drawn(groups: list[tuple[str, int]], wanted: int) -> list[str]:
    """Return the groups that come first and have ``wanted`` recordings, or about so many.

    One that would leave the share further away than it is without it is passed over: a speaker
    of half the corpus is not validated on.
    """
    chosen = []
    for group, recordings in groups:
        if wanted > 0 and recordings <= 2 * wanted:
            chosen.append(group)
            wanted -= recordings
    return chosen or [min(groups, key=lambda group: group[1])[0]]


def _report(output: Path, catalog: Catalog) -> None:
    """Write the list of what is left out, and log it, with what is odd about the others."""
    for suffix, number, path in catalog.skipped_suffixes():
        log.warning(
            "skipped %d files whose suffix %s is not read: %s, for one",
            *(number, suffix or "(none)", os.fsdecode(path)),
        )
    others = chain(catalog.faults(), catalog.skipped())
    count = write_unreadable(output / UNREADABLE, others)
    for reached, fault in islice(catalog.faults(), MOST_NAMED):
        log.warning("skipping %s: %s", os.fsdecode(reached), fault)
    if count:
        log.warning(
            "skipped %d of %d files: all are in %s",
            count,
            count + catalog.count(),
            output / UNREADABLE,
        )
    for condition, what in ODD_LEVELS:
        if odd := catalog.count_where(condition):
            log.warning("%d of %d recordings %s", odd, catalog.count(), what)
    if both := catalog.on_both_sides():
        first, other = map(os.fsdecode, both[0])
        log.warning(
            "%d of %d recordings to validate on sound exactly like one to train on: %s, for one, "
            "like %s",
            *(len(both), catalog.count("val"), first, other),
        )


def _place_shards(
    output: Path,
    catalog: Catalog,
    workers: Workers,
    size: tuple[int, float],
    how: str,
    grouped: bool,
) -> None:
    """Write shards and their manifest, unless those that are there hold the same."""
    digest = placing.digest(catalog, how, size)
    known = digest_of(output / MANIFEST) == digest
    if known and placing.shards_are_there(output, catalog, how):
        return
    placing.place_shards(output, catalog, workers, size, how)
    write_manifest(output / MANIFEST, catalog.by_name(), grouped, digest)
