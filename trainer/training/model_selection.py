"""Judging a run's model as it goes: against its base, its own best, and what is published."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from snac_core.model import SNAC
from snac_core.store.identity import token_space
from snac_core.utils import atomic_files
from trainer.config import curriculum
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
    ValidationSet,
    agreement,
    paired_change,
)

log = logging.getLogger(__name__)


class ModelSelection:
    """Measures on the fixed set, and keeps and publishes what is best.

    Parameters
    ----------
    validation_set
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
    """

    def __init__(
        self,
        validation_set: ValidationSet,
        learner: Learner,
        state: TrainState,
        metrics: Metrics,
        writer: Writer,
        output: Path,
        base_version: str | None,
    ) -> None:
        self.validation_set, self.learner, self.state = validation_set, learner, state
        self.metrics, self.writer, self.output = metrics, writer, output
        self.base_version = base_version
        self.config, self.world = validation_set.config, validation_set.world
        self.samples = Samples(validation_set, self.config.sample_clips, metrics.board)

    def baseline(self, base: SNAC | None = None) -> None:
        """Measure the untouched base model on every stage's segment length, and write it down.

        Nothing, where that has been done. Without ``base``, the learner's model is still that.
        """
        state, model = self.state, base or self.learner.model
        if not math.isnan(state.baseline):
            return
        epochs = range(1, self.config.num_epochs + 1)
        lengths = {curriculum.plan(self.config, epoch).length for epoch in epochs}
        measured = {
            length: self.validation_set.measure(model, length) for length in sorted(lengths)
        }
        fixed = measured[self.validation_set.seconds]
        state.baseline = fixed.terms["loss"]
        state.base_space = token_space(model.config, model.state_dict())
        state.known[self.base_version or RANDOM] = fixed.segments
        if self.base_version is not None:
            state.base_codes = fixed.codes if self.config.quantizer_trains else []
        stages = {f"{length:g}": one.terms for length, one in measured.items()}
        report = {"val_loss": state.baseline, "fixed": fixed.terms, "stages": stages}
        if self.world.main:
            text = json.dumps(report, indent=2) + "\n"
            atomic_files.replace(self.output / "baseline_metrics.json", text.encode())
        self._write(fixed.terms)
        log.info("baseline val_loss %.4f", state.baseline)
        self.samples.show_originals()
        self.samples.show(model, 0)

    def validate(self) -> None:
        """Measure on the fixed set; keep, and publish, the model when it is the best so far."""
        state, model = self.state, self.learner.best_guess
        measured = self.validation_set.measure(model)
        loss = measured.terms["loss"]
        state.validated_at = state.step
        better = loss < state.best - self.config.min_delta
        log.info("step %d val_loss %.4f%s", state.step, loss, " (best)" if better else "")
        terms = measured.terms | self._token_space(measured)
        self._write(terms)
        self.samples.show(model, state.step)
        if better:
            state.best, state.no_better = loss, 0
            if self.world.main:
                self._keep(terms, measured.segments)
            return
        state.no_better += 1
        state.check_patience(self.config.early_stop_patience)
        if state.ended_early:
            log.info("ended early: %d validations in a row were no better", state.no_better)

    def contents(self) -> dict[str, Any]:
        """Return what every checkpoint holds beside weights and figures."""
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
            "best_val_loss": state.best,
            "improvement": 1.0 - state.best / state.baseline,
            **{f"val_{name}": value for name, value in terms.items() if name != "loss"},
        }
        if change is not None and math.isfinite(change.ci95):
            metrics["improvement_ci95"] = change.ci95 / state.baseline
        # Not gone on from, so that it holds no optimizer.
        weights = self.learner.best_guess.state_dict()
        self.writer.save(path, self.contents() | {"model": weights, "metrics": metrics})
        store = self.config.publish_to
        if store is not None and self.writer.saved(path):
            gate = PublishGate(Path(store), self.validation_set, state.known)
            gate.offer(path, segments, base)

    def _token_space(self, measured: Measured) -> Terms:
        """Say what became of the token space, where it does not stay that of the base."""
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

    def _write(self, terms: Terms) -> None:
        self.metrics.write(
            "val",
            terms,
            step=self.state.step,
            epoch=self.state.epoch if self.state.step else 0,
            stage=curriculum.stage(self.config, self.state.epoch),
        )
