"""Running totals of an evaluation's metrics."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from snac_core.codes import Codes
from trainer.evaluation import speech_quality
from trainer.evaluation.fixed_loss import Terms
from trainer.evaluation.groups import ALL
from trainer.evaluation.models import BASE, FINETUNED, Models
from trainer.evaluation.worst import Worst
from trainer.model.code_use import CodeAgreement, CodeUse

Row = dict[str, float]


class Aggregator:
    """Keeps sums of metrics, by group and in total, but no recordings.

    Parameters
    ----------
    models
        Whose reconstructions they are.
    terms
        Names of the loss terms.
    measures
        Names of what is measured; None for all that can be.
    """

    def __init__(
        self, models: Models, terms: Sequence[str], measures: Sequence[str] | None = None
    ) -> None:
        self.models, self.terms = models, tuple(terms)
        self.measures, self.missing = speech_quality.available(measures)
        self.worst = Worst(self.measures, list(models)[-1])
        self.figures = (*self.terms, *(measure.name for measure in self.measures))
        self.use = {role: CodeUse(one.codec.config) for role, one in models.items()}
        self.agreement = _comparable(models)
        self.files, self.seconds = defaultdict[str, int](int), defaultdict[str, float](float)
        self._means: dict[str, Means] = defaultdict(Means)

    @property
    def columns(self) -> list[str]:
        """Names of everything that may be in a row."""
        columns = ["seconds"]
        for role, use in self.use.items():
            columns += [f"{role}_{name}" for name in (*self.figures, "bits_per_second")]
            columns += [f"{role}_retention_{level}" for level in range(len(use.counts))]
        if self.agreement is not None:
            columns += [f"agreement_{level}" for level in range(len(self.agreement.total))]
        return columns

    def add_losses(self, group: str, losses: Mapping[str, Terms]) -> None:
        """Add a fixed crop's loss terms, by role."""
        self._add(
            group,
            {
                f"{role}_{name}": value
                for role, terms in losses.items()
                for name, value in terms.items()
            },
        )

    def add(
        self,
        name: str,
        group: str,
        seconds: float,
        measured: Mapping[str, float],
        codes: Mapping[str, Codes],
        again: Mapping[str, Codes],
    ) -> Row:
        """Add one recording and return its figures.

        Parameters
        ----------
        name, group
            What it is called, and where it counts besides over all.
        seconds
            How much of it was measured.
        measured
            As `trainer.evaluation.speech_quality.measured` returned it.
        codes, again
            Each model's codes of the recording, and of its own reconstruction.
        """
        row: Row = {"seconds": seconds, **measured}
        self.worst.add(name, group, measured)
        for role, one in self.models.items():
            config = one.codec.config
            count = sum(len(level) for level in codes[role].levels)
            row[f"{role}_bits_per_second"] = count * math.log2(config.codebook_size) / seconds
            kept = self.use[role].add(codes[role], again[role])
            row |= {f"{role}_retention_{level}": share for level, share in enumerate(kept)}
        if self.agreement is not None:
            shares = self.agreement.add(codes[BASE], codes[FINETUNED])
            row |= {f"agreement_{level}": share for level, share in enumerate(shares)}
        for name in (group, ALL) if group != ALL else (ALL,):
            self.files[name] += 1
            self.seconds[name] += row["seconds"]
        self._add(group, row)
        return row

    def _add(self, group: str, row: Row) -> None:
        # What is gained over the base, in each figure's own unit, recording by recording.
        change = {
            f"change_{name}": row[f"{FINETUNED}_{name}"] - row[f"{BASE}_{name}"]
            for name in self.figures
            if f"{FINETUNED}_{name}" in row and f"{BASE}_{name}" in row
        }
        for name in (group, ALL) if group != ALL else (ALL,):
            self._means[name].add({**row, **change})

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, JSON-ready; a figure that is not defined is None."""
        groups = sorted(name for name in self.files if name != ALL)
        result: dict[str, Any] = {
            role: self._model(role) | self._figures(role, ALL) for role in self.models
        }
        if BASE in self.models:
            result["change"] = {name: self._change(name) for name in self.figures}
            result["improvement"] = _improvement(
                *(result[role].get("loss") for role in self.models)
            )
            result["agreement"] = None if self.agreement is None else self.agreement.shares
        return {
            **result,
            "groups": {name: self._group(name) for name in groups or [ALL]},
            ALL: self._group(ALL),
            "terms": list(self.terms),
            "measures": [measure.name for measure in self.measures],
            "missing": self.missing,
            "worst": self.worst.to_dict(),
        }

    def _model(self, role: str) -> dict[str, Any]:
        one, use = self.models[role], self.use[role]
        levels = use.levels()
        return {
            "reference": one.reference,
            "version": one.codec.version,
            "token_space": one.codec.token_space,
            "sample_rate": one.codec.sample_rate,
            "bits_per_second": one.codec.config.bits_per_second,
            "coded_bits_per_second": use.coded_bits_per_second(),
            "levels": levels,
        }

    def _figures(self, role: str, group: str) -> dict[str, Any]:
        means = self._means[group]
        return {
            "num_files": self.files[group],
            "num_segments": means[f"{role}_loss"].count,
            **{name: means[f"{role}_{name}"].mean for name in self.figures},
        }

    def _group(self, name: str) -> dict[str, Any]:
        return {
            "recordings": self.files[name],
            "seconds": self.seconds[name],
            **{role: self._figures(role, name) for role in self.models},
        }

    def _change(self, name: str) -> dict[str, Any]:
        change = self._means[ALL][f"change_{name}"]
        rises = any(measure.name == name and measure.higher_is_better for measure in self.measures)
        better = change.positive if rises else change.negative
        return {
            "mean": change.mean,
            "ci95": change.ci95,
            "better": better / change.count if change.count else None,
            "higher_is_better": rises,
        }


def _comparable(models: Models) -> CodeAgreement | None:
    """Return what counts equal codes, or None where there are not two models of one shape."""
    shapes = [
        (one.codec.config.hop, one.codec.config.vq_strides, one.codec.config.pad_multiple)
        for one in models.values()
    ]
    return CodeAgreement(len(shapes[0][1])) if len(shapes) == 2 and shapes[0] == shapes[1] else None


def _improvement(base: float | None, finetuned: float | None) -> float | None:
    """Return the relative decrease of the loss."""
    return None if not base or finetuned is None else 1 - finetuned / base


class Mean:
    """A running mean with a confidence interval; values that are not finite are left out."""

    def __init__(self) -> None:
        self.count, self.positive, self.negative = 0, 0, 0
        self._mean, self._squares = 0.0, 0.0

    def add(self, value: float) -> None:
        """Add one value (Welford, 1962, so that nothing cancels)."""
        if not math.isfinite(value):
            return
        self.count += 1
        self.positive += value > 0
        self.negative += value < 0
        step = value - self._mean
        self._mean += step / self.count
        self._squares += step * (value - self._mean)

    @property
    def mean(self) -> float | None:
        """None when nothing was added."""
        return self._mean if self.count else None

    @property
    def ci95(self) -> float | None:
        """Half the width of the mean's 95% confidence interval, by the normal approximation.

        None for fewer than two values.
        """
        if self.count < 2:
            return None
        return 1.96 * math.sqrt(self._squares / (self.count - 1) / self.count)


class Means:
    """A `Mean` for every name."""

    def __init__(self) -> None:
        self._means: dict[str, Mean] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Add one value under each name."""
        for name, value in values.items():
            self._means.setdefault(name, Mean()).add(value)

    def __getitem__(self, name: str) -> Mean:
        """Return the mean of ``name``, empty if nothing was added."""
        return self._means.get(name, Mean())

    def to_dict(self) -> dict[str, Any]:
        """Return each name's mean, None where nothing finite was added."""
        return {name: mean.mean for name, mean in self._means.items()}
