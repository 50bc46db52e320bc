"""Loss curves of a training run, read from its ``metrics.csv``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from trainer.errors import TrainerError
from trainer.losses.losses import TERMS

MOST_POINTS = 500


class Curve(NamedTuple):
    """One value over the steps of a run."""

    steps: list[float]
    values: list[float]


class Curves(NamedTuple):
    """What a run wrote down."""

    splits: dict[str, dict[str, Curve]]
    """By split (``train``, ``val``) and name (``loss`` and every term)."""
    baseline: float | None
    """Validation loss of the untouched base model."""
    baselines: dict[str, float]
    """The same on other validation sets, by split."""
    stages: list[float]
    """Steps at which a new stage of the curriculum begins."""


class _Thinned:
    """A curve of at most `MOST_POINTS` means; neighbours are joined as it grows."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float, int]] = []
        self._each, self._open = 1, (0.0, 0.0, 0)

    def add(self, step: float, value: float) -> None:
        self._open = _joined(self._open, (step, value, 1))
        if self._open[2] < self._each:
            return
        self._points.append(self._open)
        self._open = (0.0, 0.0, 0)
        if len(self._points) >= MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points, self._each = [_joined(*pair) for pair in pairs], 2 * self._each

    def curve(self) -> Curve:
        points = [*self._points, *([self._open] if self._open[2] else [])]
        return Curve([one[0] / one[2] for one in points], [one[1] / one[2] for one in points])


def _joined(
    first: tuple[float, float, int], second: tuple[float, float, int]
) -> tuple[float, float, int]:
    return (first[0] + second[0], first[1] + second[1], first[2] + second[2])


def read(run: Path) -> Curves:
    """Read the loss curves of the run in the folder ``run``; of long ones, means of stretches.

    Raises
    ------
    TrainerError
        When there is no ``metrics.csv``, or it is not one of a run.
    """
    path = run / "metrics.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            splits, stages = _thinned(csv.DictReader(file))
    except OSError as error:
        raise TrainerError(f"no loss curves in {path}: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise TrainerError(f"{path} is not the metrics.csv of a run: {error!r}") from error
    return Curves(splits, *_baselines(run / "baseline_metrics.json"), stages)


def _thinned(
    rows: Iterable[Mapping[str, str]],
) -> tuple[dict[str, dict[str, Curve]], list[float]]:
    """Return the curves by split and name, and the steps at which stages begin."""
    names = ("loss", *TERMS)
    found: dict[str, dict[str, _Thinned]] = {}
    stage, step, stages = "", 0.0, list[float]()
    for row in rows:
        now = row.get("stage") or stage
        if stage and now != stage:
            # It began between this row and the one before.
            stages.append(step)
        stage, step = now, float(row["step"])
        split = found.setdefault(row["split"], {})
        for name in names:
            # Which terms there are depends on the run; a cell is empty where one is not.
            if row.get(name):
                split.setdefault(name, _Thinned()).add(float(row["step"]), float(row[name]))
    curves = {
        split: {name: curve.curve() for name, curve in by_name.items()}
        for split, by_name in found.items()
    }
    return curves, stages


def _baselines(path: Path) -> tuple[float | None, dict[str, float]]:
    if not path.exists():
        return None, {}
    try:
        found = json.loads(path.read_text("utf-8"))
        others = {
            f"val:{name}": float(terms["loss"]) for name, terms in found.get("sets", {}).items()
        }
        return float(found["val_loss"]), others
    except (ValueError, KeyError, TypeError) as error:
        raise TrainerError(f"{path} is not the baseline of a run: {error!r}") from error
