"""How well a model reconstructs recordings, by speaker."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from snac_core import quality
from snac_core.codec import Codec
from snac_core.errors import AudioError
from trainer.data import Clip, crop, group_of, scan
from trainer.errors import TrainerError

log = logging.getLogger(__name__)

LONGEST_SECONDS = 30.0
FIGURES = ("stoi", "log_mel", "si_sdr")
ALL = "all"


class Scored(NamedTuple):
    """One recording's figures; see `snac_core.quality`."""

    path: str
    group: str
    seconds: float
    stoi: float
    log_mel: float
    si_sdr: float


def evaluate(
    codec: Codec,
    folder: Path,
    *,
    group_by: str | None = None,
    max_seconds_per_group: float = math.inf,
) -> dict[str, Any]:
    """Reconstruct the recordings under ``folder`` and measure how close they come.

    Of each recording, its first 30 s. Those that cannot be read are logged and counted.

    Parameters
    ----------
    codec
        The model.
    folder
        Searched in depth.
    group_by
        Finds a recording's group as `trainer.data.group_of` does; None makes one group.
    max_seconds_per_group
        Take no further recording of a group that has so much.

    Returns
    -------
    dict
        JSON-ready: ``model``, ``token_space``, ``bits_per_second``, ``groups`` and ``all``
        (means over recordings), ``skipped``, ``recordings``. A figure that is not defined
        is None and counts in no mean.

    Raises
    ------
    TrainerError
        When there is nothing to measure, or a file name matches no group.
    """
    clips = [(clip, group_of(clip.path, group_by) if group_by else ALL) for clip in scan(folder)]
    scored: list[Scored] = []
    skipped = 0
    taken: dict[str, float] = {}
    for clip, group in tqdm(clips, "evaluating", unit="file"):
        if taken.get(group, 0.0) >= max_seconds_per_group:
            continue
        try:
            result = _score(codec, clip, group)
        except AudioError as error:
            log.warning("skipping %s: %s", clip.path, error)
            skipped += 1
            continue
        taken[group] = taken.get(group, 0.0) + result.seconds
        scored.append(result)
    if not scored:
        raise TrainerError(f"none of the {skipped} recordings under {folder} can be read")
    groups = {
        name: _summary([one for one in scored if one.group == name]) for name in sorted(taken)
    }
    return {
        "model": codec.version,
        "token_space": codec.token_space,
        "bits_per_second": codec.config.bits_per_second,
        "groups": groups,
        ALL: _summary(scored),
        "skipped": skipped,
        "recordings": [
            {name: _finite(value) for name, value in one._asdict().items()} for one in scored
        ],
    }


def to_markdown(report: dict[str, Any]) -> str:
    """Return the table of a report: a row for each group, and one for all."""
    lines = [
        "| group | recordings | seconds | STOI | log-mel L1 | SI-SDR (dB) |",
        "|---|---|---|---|---|---|",
    ]
    rows = {**report["groups"], ALL: report[ALL]}
    for name, row in rows.items():
        stoi, log_mel, si_sdr = (
            "-" if row[figure] is None else f"{row[figure]:.{digits}f}"
            for figure, digits in zip(FIGURES, (3, 3, 2), strict=True)
        )
        lines.append(
            f"| {name} | {row['recordings']} | {row['seconds']:.0f} | {stoi} | {log_mel} "
            f"| {si_sdr} |"
        )
    return "\n".join(lines)


def _score(codec: Codec, clip: Clip, group: str) -> Scored:
    rate = codec.sample_rate
    seconds = min(clip.seconds, LONGEST_SECONDS)
    segment = crop(clip, 0.0, seconds, rate)
    samples = segment.audio[0, : int(segment.own.sum())].numpy()
    (result,) = codec.decode(codec.encode([samples]))
    return Scored(
        str(clip.path),
        group,
        len(samples) / rate,
        quality.stoi(samples, result, rate),
        quality.log_mel_distance(samples, result, rate),
        quality.si_sdr(samples, result),
    )


def _summary(scored: Sequence[Scored]) -> dict[str, Any]:
    return {
        "recordings": len(scored),
        "seconds": sum(one.seconds for one in scored),
        **{figure: _mean(getattr(one, figure) for one in scored) for figure in FIGURES},
    }


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _finite(value: str | float) -> str | float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
