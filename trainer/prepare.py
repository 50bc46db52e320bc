"""From a folder of recordings to ``train/`` and ``val/``."""

from __future__ import annotations

import csv
import hashlib
import logging
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from trainer.data import Clip, scan
from trainer.errors import TrainerError

log = logging.getLogger(__name__)


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
) -> Split:
    """Divide the recordings under ``inputs`` into ``output/train`` and ``output/val``.

    Files are linked unless copied; ``output/manifest.csv`` lists them with their split,
    group and length. Unreadable files are logged and left out. The same inputs and seed
    give the same split, and running again replaces the last one.

    Parameters
    ----------
    inputs
        Folders, searched in depth.
    output
        Folder to write to.
    train_ratio
        Share of the recordings to train on, between 0 and 1.
    seed
        Decides the split.
    group_by
        ``"folder"``, or a regular expression whose first group (or whole match) in the file
        name is the recording's group, such as its speaker. A group is never on both sides.
    val_groups
        Groups that must go to ``val``; the ratio then does not apply.
    copy
        Copy files instead of linking to them.

    Raises
    ------
    TrainerError
        When a folder has no audio, a name does not match ``group_by``, or a side is empty.
    """
    if not 0.0 < train_ratio < 1.0:
        raise TrainerError(f"train_ratio must be between 0 and 1, not {train_ratio}")
    clips = [clip for folder in inputs for clip in scan(folder)]
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(_group(clip.path, group_by), []).append(clip)
    val = _choose(groups, train_ratio, seed, val_groups)
    if not val or len(val) == len(groups):
        raise TrainerError(
            f"{len(groups)} groups of recordings cannot be split {train_ratio:g} : "
            f"{1 - train_ratio:g} with something on both sides"
        )
    for side in ("train", "val"):
        shutil.rmtree(output / side, ignore_errors=True)
        (output / side).mkdir(parents=True)
    with (output / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "split", "group", "seconds", "source"])
        counts = {"train": 0, "val": 0}
        for name, members in tqdm(sorted(groups.items()), "preparing", unit="group"):
            side = "val" if name in val else "train"
            counts[side] += len(members)
            for clip in members:
                target = _free_name(output / side, clip.path)
                if copy:
                    shutil.copyfile(clip.path, target)
                else:
                    target.symlink_to(clip.path.resolve())
                table.writerow(
                    [target.relative_to(output), side, name, f"{clip.seconds:.3f}", clip.path]
                )
    return Split(counts["train"], counts["val"])


def _group(path: Path, group_by: str | None) -> str:
    if group_by is None:
        return str(path)
    if group_by == "folder":
        return path.parent.name
    match = re.search(group_by, path.name)
    if match is None:
        raise TrainerError(f"{path.name!r} does not match --group-by {group_by!r}")
    return match[1] if match.re.groups else match[0]


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
    wanted = round(sum(map(len, groups.values())) * (1 - train_ratio)) or 1
    chosen: set[str] = set()
    for name in names:
        if sum(len(groups[member]) for member in chosen) >= wanted:
            break
        chosen.add(name)
    return chosen


def _free_name(folder: Path, source: Path) -> Path:
    """Return a path in ``folder`` named as ``source``, made unlike others by where it is from."""
    target = folder / source.name
    if target.is_symlink() or target.exists():
        origin = hashlib.sha256(str(source.parent).encode()).hexdigest()[:8]
        target = folder / f"{source.stem}-{origin}{source.suffix}"
        log.warning("%s is taken: %s becomes %s", source.name, source, target.name)
    return target
