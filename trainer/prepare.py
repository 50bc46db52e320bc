"""From folders of recordings to ``train/`` and ``val/``."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from snac_core import durable
from trainer.data import Clip, group_of, scan
from trainer.errors import TrainerError

log = logging.getLogger(__name__)

SIDES = ("train", "val")
MANIFEST = "manifest.csv"
COLUMNS = ["path", "split", "group", "seconds", "source"]


class Split(NamedTuple):
    """What went where, in recordings."""

    train: int
    val: int


class Place(NamedTuple):
    """A recording and where it goes."""

    clip: Clip
    group: str
    side: str
    name: str
    """File name in the folder of its side."""


def prepare(
    inputs: Sequence[Path],
    output: Path,
    *,
    train_ratio: float = 0.95,
    seed: int = 42,
    group_by: str | None = None,
    val_groups: Sequence[str] = (),
    copy: bool = False,
) -> Split:
    """Divide the recordings under ``inputs`` into ``output/train`` and ``output/val``.

    Files are linked unless copied; ``output/manifest.csv`` lists them with their split,
    group and length. Unreadable files are logged and left out. The same inputs and seed
    give the same split. Running again replaces the last split, and nothing else: a
    recording that this function did not put there is an error.

    Parameters
    ----------
    inputs
        Folders, searched in depth.
    output
        Folder to write to. It may lie within an input; what was prepared in it is not input.
    train_ratio
        Share of the recordings to train on, between 0 and 1.
    seed
        Decides the split.
    group_by
        Finds a recording's group, such as its speaker, as `trainer.data.group_of` does. A
        group is never on both sides. None makes each recording a group.
    val_groups
        Groups that must go to ``val``; the ratio then does not apply.
    copy
        Copy files instead of linking to them.

    Raises
    ------
    TrainerError
        When a folder has no audio, a name does not match ``group_by``, a side is empty, or
        ``output`` holds files that were not prepared.
    OSError
        When a file cannot be written.
    """
    if not 0.0 < train_ratio < 1.0:
        raise TrainerError(f"train_ratio must be between 0 and 1, not {train_ratio}")
    groups: dict[str, list[Clip]] = {}
    for clip in _recordings(inputs, output):
        group = str(clip.path) if group_by is None else group_of(clip.path, group_by)
        groups.setdefault(group, []).append(clip)
    val = _choose(groups, train_ratio, seed, val_groups)
    if not val or len(val) == len(groups):
        raise TrainerError(
            f"{len(groups)} groups of recordings cannot be split {train_ratio:g} : "
            f"{1 - train_ratio:g} with something on both sides"
        )
    places = _places(groups, val)
    _remove_last(output)
    # Before the files, so that the next run knows what this one made even if it is killed.
    _write_manifest(output, places)
    for place in tqdm(places, "preparing", unit="file"):
        target = output / place.side / place.name
        if copy:
            shutil.copyfile(place.clip.path, target)
        else:
            target.symlink_to(place.clip.path.resolve())
    val_count = sum(place.side == "val" for place in places)
    return Split(len(places) - val_count, val_count)


def _recordings(inputs: Sequence[Path], output: Path) -> Iterable[Clip]:
    """Return each recording once, however many ways lead to it."""
    ours = [output.resolve() / side for side in SIDES]
    clips: dict[Path, Clip] = {}
    for folder in inputs:
        for clip in scan(folder.resolve()):
            if not any(side in clip.path.parents for side in ours):
                clips.setdefault(clip.path.resolve(), clip)
    if not clips:
        raise TrainerError(f"{', '.join(map(str, inputs))} holds no recordings but those prepared")
    return clips.values()


def _choose(
    groups: dict[str, list[Clip]], train_ratio: float, seed: int, val_groups: Sequence[str]
) -> set[str]:
    """Return the groups to validate on: the named ones, or random ones up to the ratio."""
    if val_groups:
        unknown = sorted(set(val_groups) - set(groups))
        if unknown:
            raise TrainerError(f"no recordings of {unknown}; groups are {sorted(groups)[:20]}")
        return set(val_groups)
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    left = round(sum(map(len, groups.values())) * (1 - train_ratio)) or 1
    chosen: set[str] = set()
    for name in names:
        if left <= 0:
            break
        chosen.add(name)
        left -= len(groups[name])
    return chosen


def _places(groups: dict[str, list[Clip]], val: set[str]) -> list[Place]:
    """Return where each recording goes; names that are taken are made unlike the others."""
    taken: set[tuple[str, str]] = set()
    places = []
    for group, clips in sorted(groups.items()):
        side = "val" if group in val else "train"
        for clip in clips:
            name = clip.path.name
            if (side, name) in taken:
                origin = hashlib.sha256(str(clip.path.parent).encode()).hexdigest()[:8]
                name = f"{clip.path.stem}-{origin}{clip.path.suffix}"
                log.warning("%s is taken: %s becomes %s", clip.path.name, clip.path, name)
            taken.add((side, name))
            places.append(Place(clip, group, side, name))
    return places


def _remove_last(output: Path) -> None:
    """Leave ``train/`` and ``val/`` empty, having removed what the last run made and nothing else.

    Raises
    ------
    TrainerError
        When something else is there; nothing is removed then.
    """
    manifest = output / MANIFEST
    made: set[Path] = set()
    if manifest.exists():
        with manifest.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.DictReader(file)
            if table.fieldnames != COLUMNS:
                raise TrainerError(f"{manifest} was not made by prepare: choose another folder")
            made = {output / row["path"] for row in table}
    found = [path for side in SIDES for path in (output / side).glob("*")]
    if strangers := [path for path in found if path not in made]:
        raise TrainerError(
            f"{strangers[0]} was not put there by prepare, and preparing would remove what is "
            f"in its folder: choose an --output-dir without {' and '.join(SIDES)} of its own"
        )
    for path in found:
        path.unlink()
    for side in SIDES:
        (output / side).mkdir(parents=True, exist_ok=True)


def _write_manifest(output: Path, places: Sequence[Place]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for clip, group, side, name in places:
        table.writerow([f"{side}/{name}", side, group, f"{clip.seconds:.3f}", clip.path])
    durable.replace(output / MANIFEST, text.getvalue().encode("utf-8", "surrogateescape"))
