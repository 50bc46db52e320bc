"""Places recordings in the dataset: as links, copies, FLAC or shards."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from snac_core.audio import Channel, parse_channel
from snac_core.utils import atomic_files
from snac_core.utils.commands import progress
from trainer.data.shard_files import Entry, write_shards
from trainer.errors import TrainerError
from trainer.preparation.catalog import PAGE, Catalog, Made, Wanted
from trainer.preparation.flac import SAMPLE_RATE, Conversion, make_flac, to_flac
from trainer.runtime.workers import Workers

log = logging.getLogger(__name__)

SIDES = ("train", "val")

LINK, COPY, FLAC, SHARDS, FLAC_SHARDS = "link", "copy", "flac", "shards", "flac shards"
"""How a recording is put into its side's folder; see `how_converted` for what follows ``flac``."""


def how_converted(how: str, sample_rate: int, channel: Channel) -> str:
    """Return ``how``, with the rate and the channel after it unless they are the usual ones."""
    how += f" {sample_rate}" * (sample_rate != SAMPLE_RATE)
    return how + f" channel={channel}" * (channel != "average")


def conversion(how: str) -> Conversion | None:
    """Return what ``how`` converts recordings to, without a source; None where it does not."""
    if not how.startswith(FLAC):
        return None
    words = how.split()
    rates = [int(word) for word in words if word.isdigit()]
    channels = [parse_channel(word[8:]) for word in words if word.startswith("channel=")]
    channel: Channel = channels[0] if channels else "average"
    return Conversion(b"", rates[0] if rates else SAMPLE_RATE, channel=channel)


def check_strangers(output: Path, catalog: Catalog) -> None:
    """Raise TrainerError when a side's folder holds what `prepare` did not put there."""
    for side in SIDES:
        folder = output / side
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(atomic_files.TEMPORARY) or catalog.made(side, _text(name)):
                    continue
                raise TrainerError(
                    f"{folder / name} was not put there by prepare, and preparing would remove "
                    f"what is in its folder: choose an --output-dir without "
                    f"{' and '.join(SIDES)} of its own"
                )


def give_names(catalog: Catalog, flac: bool) -> None:
    """Give each recording its file name; those that are taken become unlike the others."""
    with catalog.together():
        for wanted in catalog.recordings():
            reached = os.fsdecode(wanted.reached)
            stem, suffix = map(_text, os.path.splitext(os.path.basename(reached)))  # noqa: PTH119, PTH122
            suffix = ".flac" if flac else suffix
            name = f"{stem}{suffix}"
            if catalog.try_name(name, wanted.source):
                continue
            taken, mark, length = name, hashlib.sha256(wanted.source).hexdigest(), 8
            while not catalog.try_name(name := f"{stem}-{mark[:length]}{suffix}", wanted.source):
                length += 8
            log.warning("%s is taken: %s becomes %s", taken, reached, name)


def place(output: Path, catalog: Catalog, how: str, workers: Workers) -> None:
    """Make ``train/`` and ``val/`` what the catalog says; what is right already stays.

    Raises
    ------
    AudioError, OSError
        When a recording has changed since it was measured, or a file cannot be written.
    """
    _remove(output, catalog, catalog.all_made(unwanted=True))
    with progress(total=catalog.count(), desc="preparing", unit="file") as bar:
        rows = catalog.by_name()
        while page := list(islice(rows, PAGE)):
            _place_page(output, catalog, how, workers, page)
            bar.update(len(page))


def place_shards(
    output: Path, catalog: Catalog, workers: Workers, size: tuple[int, float], how: str
) -> None:
    """Write the shards of both sides, and name in the catalog where each recording is.

    They are written beside what is there and take its place when all are.

    Raises
    ------
    AudioError, OSError
        As for `place`.
    """
    unfinished = output / f"{atomic_files.TEMPORARY}shards"
    atomic_files.remove(unfinished)
    for side in SIDES:
        folder = unfinished / side
        folder.mkdir(parents=True)
        rows, again = catalog.shuffled(side), catalog.shuffled(side)
        bar = progress(rows, desc=f"writing {side} shards", total=catalog.count(side), unit="file")
        places = write_shards(_entries(bar, how, workers), folder, *size)
        catalog.name((name, row.source) for name, row in zip(places, again, strict=True))
    _remove(output, catalog, catalog.all_made())
    files = [path for side in SIDES for path in sorted((unfinished / side).iterdir())]
    catalog.make(Made(path.parent.name, path.name, b"", *_state(path), how) for path in files)
    for path in files:
        path.replace(output / path.parent.name / path.name)
    atomic_files.remove(unfinished)


def shards_are_there(output: Path, catalog: Catalog, how: str) -> bool:
    """Return whether the shards that were made last are what and where they were."""
    found = False
    for made in catalog.all_made():
        path = output / made.side / made.name
        found = path.exists() and made.how == how and _state(path) == (made.size, made.modified)
        if not found:
            break
    return found


def digest(catalog: Catalog, how: str, size: tuple[int, float]) -> str:
    """Return a text that differs when shards of other recordings, or otherwise, are wanted."""
    text = hashlib.sha256(f"{how} {size}".encode())
    for side in SIDES:
        for row in catalog.shuffled(side):
            text.update(repr((side, row.source, row.size, row.modified, row.group)).encode())
    return text.hexdigest()


def clear_unfinished(output: Path) -> None:
    """Remove what a run that was killed was writing."""
    for folder in (output, *(output / side for side in SIDES)):
        if folder.is_dir():
            for path in folder.glob(f"{atomic_files.TEMPORARY}*"):
                atomic_files.remove(path)


def _place_page(
    output: Path, catalog: Catalog, how: str, workers: Workers, page: list[Wanted]
) -> None:
    files: list[tuple[Wanted, Path]] = []
    for row in page:
        made = Made(row.side, row.name or "", row.source, row.size, row.modified, how)
        place = f"{output}/{row.side}/{made.name}"
        there = os.path.lexists(place)
        if there and catalog.made(made.side, made.name) == made:
            continue
        target = Path(place)
        if there:
            target.unlink()
        files.append((row, target))
    # Before the files, so that the next run knows what this one made even if it is killed.
    catalog.make(
        Made(row.side, row.name or "", row.source, row.size, row.modified, how) for row, _ in files
    )
    if made_to := conversion(how):
        tasks = (made_to._replace(source=row.source, target=target) for row, target in files)
        for _ in workers.map(make_flac, tasks):
            pass
        return
    for row, target in files:
        source = Path(os.fsdecode(row.source))
        if how == COPY:
            unfinished = atomic_files.temporary(target)
            shutil.copyfile(source, unfinished)
            unfinished.replace(target)
        else:
            target.symlink_to(source)


def _entries(rows: Iterator[Wanted], how: str, workers: Workers) -> Iterator[Entry]:
    """Yield what goes into shards, converted by the workers where it is to be."""
    made_to = conversion(how)
    ahead: list[Wanted] = []

    def tasks() -> Iterator[Conversion]:
        for row in rows:
            ahead.append(row)
            yield (made_to or Conversion(b""))._replace(source=row.source)

    for data in workers.map(to_flac if made_to else _contents, tasks()):
        row = ahead.pop(0)
        suffix = Path(os.fsdecode(row.reached)).suffix
        known = {
            "source": row.source.decode("utf-8", "backslashreplace"),
            "group": row.group,
            "duration": row.seconds,
            "sample_rate": row.sample_rate,
            "channels": row.channels,
            "peak": row.peak,
            "loudness": row.loudness,
            "bandwidth": row.bandwidth,
        }
        yield Entry(".flac" if made_to else suffix, data, known)


def _contents(task: Conversion) -> bytes:
    return Path(os.fsdecode(task.source)).read_bytes()


def _remove(output: Path, catalog: Catalog, files: Iterator[Made]) -> None:
    while page := list(islice(files, PAGE)):
        for made in page:
            (output / made.side / made.name).unlink(missing_ok=True)
        catalog.forget(page)


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
