"""Judging a run's model as it goes: against its base, its own best, and what is published."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from snac_core.store.identity import token_space
from snac_core.utils import atomic_files
from trainer.config import curriculum
from trainer.runtime.checkpointing import BEST, Writer
from trainer.runtime.metrics import Metrics
from trainer.runtime.progress import Progress
from trainer.training.gate import Gate
from trainer.training.learner import Learner
from trainer.training.samples import Samples
from trainer.training.validation import FixedSet, Measured, Terms, agreement

log = logging.getLogger(__name__)


class Referee:
    """Measures on the fixed set, and keeps and publishes what is best.

    Parameters
    ----------
    fixed
        The segments that all models are measured on.
    learner
        Whose model is measured.
    progress
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
        fixed: FixedSet,
        learner: Learner,
        progress: Progress,
        metrics: Metrics,
        writer: Writer,
        output: Path,
        base_version: str | None,
    ) -> None:
        self.fixed, self.learner, self.progress = fixed, learner, progress
        self.metrics, self.writer, self.output = metrics, writer, output
        self.base_version = base_version
        self.config, self.world = fixed.config, fixed.world
        self.samples = Samples(fixed, self.config.sample_clips, metrics.board)

    def baseline(self) -> None:
        """Measure the untouched base model on every stage's segment length, and write it down.

        Nothing, where that has been done.
        """
        progress, model = self.progress, self.learner.model
        if not math.isnan(progress.baseline):
            return
        epochs = range(1, self.config.num_epochs + 1)
        lengths = {curriculum.plan(self.config, epoch).length for epoch in epochs}
        measured = {length: self.fixed.measure(model, length) for length in sorted(lengths)}
        fixed = measured[self.fixed.seconds]
        progress.baseline = fixed.terms["loss"]
        progress.base_space = token_space(model.config, model.state_dict())
        if self.base_version is not None:
            progress.known[self.base_version] = progress.baseline
            progress.base_codes = fixed.codes if self.config.quantizer_trains else []
        stages = {f"{length:g}": one.terms for length, one in measured.items()}
        report = {"val_loss": progress.baseline, "fixed": fixed.terms, "stages": stages}
        if self.world.main:
            text = json.dumps(report, indent=2) + "\n"
            atomic_files.replace(self.output / "baseline_metrics.json", text.encode())
        self._write(fixed.terms)
        log.info("baseline val_loss %.4f", progress.baseline)
        self.samples.show_originals()
        self.samples.show(model, 0)

    def validate(self) -> None:
        """Measure on the fixed set; keep, and publish, the model when it is the best so far."""
        progress, model = self.progress, self.learner.best_guess
        measured = self.fixed.measure(model)
        loss = measured.terms["loss"]
        progress.validated_at = progress.step
        better = loss < progress.best
        log.info("step %d val_loss %.4f%s", progress.step, loss, " (best)" if better else "")
        terms = measured.terms | self._token_space(measured)
        self._write(terms)
        self.samples.show(model, progress.step)
        if better:
            progress.best, progress.no_better = loss, 0
            if self.world.main:
                self._keep(terms)
            return
        progress.no_better += 1
        progress.judge(self.config.early_stop_patience)
        if progress.ended_early:
            log.info("ended early: %d validations in a row were no better", progress.no_better)

    def contents(self) -> dict[str, Any]:
        """Return what every checkpoint holds beside weights and figures."""
        return {
            "config": self.learner.model.config.to_dict(),
            "train_config": self.config.to_dict(),
            "base": self.base_version,
            "epoch": self.progress.epoch,
            "step": self.progress.step,
        }

    def _keep(self, terms: Terms) -> None:
        progress, path = self.progress, self.output / BEST
        metrics = {
            "baseline_val_loss": progress.baseline,
            "best_val_loss": progress.best,
            "improvement": 1.0 - progress.best / progress.baseline,
            **{f"val_{name}": value for name, value in terms.items() if name != "loss"},
        }
        # Not gone on from, so that it holds no optimizer.
        weights = self.learner.best_guess.state_dict()
        self.writer.save(path, self.contents() | {"model": weights, "metrics": metrics})
        store = self.config.publish_to
        if store is not None and self.writer.saved(path):
            gate = Gate(Path(store), self.fixed, progress.known)
            gate.offer(path, progress.best, progress.baseline)

    def _token_space(self, measured: Measured) -> Terms:
        """Say what became of the token space, where it does not stay that of the base."""
        if not self.progress.base_codes:
            return {}
        model = self.learner.best_guess
        same = agreement(self.progress.base_codes, measured.codes)
        log.info(
            "token space %s, no longer %s of the base: %.1f%% of codes are the same",
            token_space(model.config, model.state_dict()),
            self.progress.base_space,
            100.0 * same,
        )
        return {"code_agreement": same}

    def _write(self, terms: Terms) -> None:
        self.metrics.write(
            "val",
            terms,
            step=self.progress.step,
            epoch=self.progress.epoch if self.progress.step else 0,
            stage=curriculum.stage(self.config, self.progress.epoch),
        )
