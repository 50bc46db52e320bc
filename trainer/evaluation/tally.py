"""The figures of an evaluation as they add up, recording by recording."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from snac_core.codes import Codes
from snac_core.types import Samples
from trainer.evaluation import speech_quality
from trainer.evaluation.compared import BASE, FINETUNED, Models
from trainer.evaluation.fixed_loss import Terms
from trainer.evaluation.means import Means
from trainer.evaluation.selection import ALL
from trainer.model.code_use import CodeUse, Same

Row = dict[str, float]


class Tally:
    """Measures reconstructions and keeps sums, by group and over all; never the recordings.

    Parameters
    ----------
    models
        Whose reconstructions they are.
    terms
        Names of the loss terms.
    """

    def __init__(self, models: Models, terms: Sequence[str]) -> None:
        self.models, self.terms = models, tuple(terms)
        self.measures, self.missing = speech_quality.available()
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
        group: str,
        reference: Samples,
        made: Mapping[str, Samples],
        codes: Mapping[str, Codes],
        again: Mapping[str, Codes],
    ) -> Row:
        """Measure one recording and return its figures.

        Parameters
        ----------
        group
            Where it counts, besides over all.
        reference
            The recording, [T].
        made
            Each model's reconstruction, [T], by role.
        codes, again
            Each model's codes of the recording, and of its own reconstruction.
        """
        row: Row = {}
        for role, one in self.models.items():
            rate, config = one.codec.sample_rate, one.codec.config
            seconds = row["seconds"] = len(reference) / rate
            for measure in self.measures:
                row[f"{role}_{measure.name}"] = measure.compute(reference, made[role], rate)
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


def _comparable(models: Models) -> Same | None:
    """Return what counts equal codes, or None where there are not two models of one shape."""
    shapes = [
        (one.codec.config.hop, one.codec.config.vq_strides, one.codec.config.pad_multiple)
        for one in models.values()
    ]
    return Same(len(shapes[0][1])) if len(shapes) == 2 and shapes[0] == shapes[1] else None


def _improvement(base: float | None, finetuned: float | None) -> float | None:
    """Return by which share the loss is lower."""
    return None if not base or finetuned is None else 1 - finetuned / base
