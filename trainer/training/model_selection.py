"""Model selection: compares the model with its base, its best so far and the published version."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snac_core.model import SNAC
from snac_core.store.identity import token_space
from snac_core.utils import atomic_files
from trainer.config import curriculum
from trainer.config.types import RISING
from trainer.errors import TrainerError
from trainer.runtime.checkpointing import BEST, Writer
from trainer.runtime.metrics import Metrics
from trainer.runtime.progress import TrainState
from trainer.training.learner import Learner
from trainer.training.publish import RANDOM, PublishGate
from trainer.training.samples import Samples
from trainer.training.validation import (
    Measured,
    Segments,
    Terms,
    agreement,
    paired_change,
)
from trainer.training.validation_sets import Findings, ValidationSets

log = logging.getLogger(__name__)


class ModelSelection:
    """Validates the model, and keeps and publishes the best.

    Parameters
    ----------
    sets
        The segments that all models are measured on.
    learner
        Whose model is measured.
    state
        What was best so far; kept up to date.
    metrics
        Where figures go.
    writer, output
        How and where ``best_model.pt`` is written.
    base_version
        What the run started from; None for random weights.
    stage
        Tells which stage of the curriculum the run is in.
    """

    def __init__(
        self,
        sets: ValidationSets,
        learner: Learner,
        state: TrainState,
        metrics: Metrics,
        writer: Writer,
        output: Path,
        base_version: str | None,
        stage: Callable[[], int],
    ) -> None:
        self.sets, self.learner, self.state = sets, learner, state
        self.metrics, self.writer, self.output = metrics, writer, output
        self.base_version, self.stage = base_version, stage
        self.config, self.world = sets.main.config, sets.main.world
        self.samples = Samples(sets.main, self.config.sample_clips, metrics.board)

    def baseline(self, base: SNAC | None = None) -> None:
        """Measure the base model at every stage's segment length, and record the result.

        Nothing, where that has been done. Without ``base``, the learner's model is still that.
        """
        state, model = self.state, base or self.learner.model
        if not math.isnan(state.baseline):
            return
        lengths = {plan.length for plan in curriculum.plans(self.config)}
        main = self.sets.main
        measured = {length: main.measure(model, length) for length in sorted(lengths)}
        fixed = measured[main.seconds]
        named = {name: one.measure(model) for name, one in self.sets.named.items()}
        state.baseline = fixed.terms["loss"]
        state.base_space = token_space(model.config, model.state_dict())
        state.known[self.base_version or RANDOM] = Findings(fixed, named).segments
        if self.base_version is not None:
            state.base_codes = fixed.codes if self.config.token_space_changes else []
        stages = {f"{length:g}": one.terms for length, one in measured.items()}
        sets = {name: one.terms for name, one in named.items()}
        report = {"val_loss": state.baseline, "fixed": fixed.terms, "stages": stages, "sets": sets}
        if self.world.main:
            text = json.dumps(report, indent=2) + "\n"
            atomic_files.replace(self.output / "baseline_metrics.json", text.encode())
        self._write(Findings(fixed, named), fixed.terms)
        log.info("baseline val_loss %.4f", state.baseline)
        self.samples.show_originals()
        self.samples.show(model, 0)

    def validate(self) -> None:
        """Measure on the fixed set; keep, and publish, the model when it is the best so far."""
        state, model = self.state, self.learner.best_guess
        found = self.sets.measure(model)
        terms = found.main.terms
        state.validated_at = state.step
        score = self.score(terms)
        better = score < state.best - self.config.min_delta
        metric = self.config.best_metric
        figures = f" {metric} {terms[metric]:.4f}" if metric != "loss" else ""
        for name, one in found.named.items():
            figures += f" {name} {one.terms['loss']:.4f}"
        said = " (best)" if better else ""
        log.info("step %d val_loss %.4f%s%s", state.step, terms["loss"], figures, said)
        terms = terms | self._token_space(found.main)
        self._write(found, terms)
        self.samples.show(model, state.step)
        if better:
            state.best, state.no_better = score, 0
            if self.world.main:
                self._keep(terms, found.segments)
            return
        state.no_better += 1
        state.check_patience(self.config.early_stop_patience)
        if state.ended_early:
            log.info("ended early: %d validations in a row were no better", state.no_better)

    def score(self, terms: Terms) -> float:
        """Return ``best_metric`` so that less is better.

        Raises
        ------
        TrainerError
            When it is not defined for any segment.
        """
        metric = self.config.best_metric
        if not math.isfinite(terms[metric]):
            raise TrainerError(
                f"best_metric {metric} is not defined for any validation segment, such as STOI for "
                f"less than 0.4 s of speech; these have {self.sets.main.seconds:g} s"
            )
        return -terms[metric] if metric in RISING else terms[metric]

    def contents(self) -> dict[str, Any]:
        """Return the contents of every checkpoint beside weights and metrics."""
        return {
            "config": self.learner.model.config.to_dict(),
            "train_config": self.config.to_dict(),
            "base": self.base_version,
            "epoch": self.state.epoch,
            "step": self.state.step,
        }

    def _keep(self, terms: Terms, segments: Segments) -> None:
        state, path, base = self.state, self.output / BEST, self.base_version or RANDOM
        before = state.known.get(base)
        change = None if before is None else paired_change(segments["loss"], before["loss"])
        metrics = {
            "baseline_val_loss": state.baseline,
            "best_val_loss": terms["loss"],
            "improvement": 1.0 - terms["loss"] / state.baseline,
            **{f"val_{name}": value for name, value in terms.items() if name != "loss"},
        }
        if change is not None and math.isfinite(change.ci95):
            metrics["improvement_ci95"] = change.ci95 / state.baseline
        # Not gone on from, so that it holds no optimizer.
        weights = self.learner.best_guess.state_dict()
        self.writer.save(path, self.contents() | {"model": weights, "metrics": metrics})
        store = self.config.publish_to
        if store is not None and self.writer.saved(path):
            gate = PublishGate(Path(store), self.sets, state.known)
            gate.offer(path, segments, base)

    def _token_space(self, measured: Measured) -> Terms:
        """Log the token space, if it differs from the base's."""
        if not self.state.base_codes:
            return {}
        model = self.learner.best_guess
        same = agreement(self.state.base_codes, measured.codes)
        log.info(
            "token space %s, no longer %s of the base: %.1f%% of codes are the same",
            token_space(model.config, model.state_dict()),
            self.state.base_space,
            100.0 * same,
        )
        return {"code_agreement": same}

    def _write(self, found: Findings, terms: Terms) -> None:
        """Write a row for each set; ``terms`` are those of the main one."""
        rows = {"val": terms} | {f"val:{name}": one.terms for name, one in found.named.items()}
        for split, values in rows.items():
            self.metrics.write(
                split,
                values,
                step=self.state.step,
                epoch=self.state.epoch if self.state.step else 0,
                stage=self.stage(),
            )
