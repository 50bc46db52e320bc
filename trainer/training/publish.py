"""Publishes checkpoints to a model store, and decides which models of a run are published."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.errors import ModelError, SnacError, StoreError
from snac_core.store import ModelStore, checkpoint, load
from snac_core.store.weights import read_torch
from trainer.config.types import RISING
from trainer.errors import TrainerError
from trainer.runtime.distributed import World
from trainer.training.validation import Change, Segments, paired_change
from trainer.training.validation_sets import ValidationSets, key

log = logging.getLogger(__name__)

_OF_A_RUN = ("config", "model", "metrics", "train_config")


def publish(
    ref: str | Path,
    store: Path,
    *,
    half: bool = False,
    model_card: Path | None = None,
    device: torch.device | None = None,
    gate: Mapping[str, Any] | None = None,
) -> str:
    """Publish a model and make it the store's current version.

    It becomes current when, read back from the store, it gives its golden clip.

    The parent of a run's checkpoint is the version that the run started from, and that of any
    other model is the model.

    Parameters
    ----------
    ref
        A ``best_model.pt`` or any other checkpoint of a run, or whatever `snac_core.load` takes.
    store
        Folder of the model store; made when it does not exist.
    half
        Store weights as float16. The token space is then that of the rounded weights.
    model_card
        Markdown to publish along.
    device
        Where to check it; the CPU by default.
    gate
        Why it is published, which the manifest then has as ``gate`` among its metrics.

    Returns
    -------
    str
        The version's id.

    Raises
    ------
    ModelError
        When there is no such model, it cannot be read, or its weights do not fit its
        configuration.
    TrainerError
        When the model card cannot be read.
    StoreError
        When the store cannot be written, or what was written to it is not the model; then
        another version stays current.
    """
    config, weights, about = _model(ref)
    if gate is not None:
        about["metrics"] = {**about["metrics"], "gate": dict(gate)}
    if half:
        weights = {name: tensor.half() for name, tensor in weights.items()}
    versions = ModelStore(store)
    version = versions.publish(
        config,
        weights,
        **about,
        model_card=read_card(model_card),
        make_current=False,
    )
    make_current(versions, version, device or torch.device("cpu"))
    return version


def read_card(path: Path | None) -> str | None:
    """Return the text of a model card; None for none.

    Raises
    ------
    TrainerError
        When it cannot be read.
    """
    try:
        return None if path is None else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainerError(f"cannot read the model card {path}: {error}") from error


def _model(ref: str | Path) -> tuple[SnacConfig, Mapping[str, Tensor], dict[str, Any]]:
    """Return a model's configuration, its weights, and what else is published of it."""
    if Path(ref).is_file():
        content = read_torch(Path(ref))
        keys = content if isinstance(content, Mapping) else {}
        if all(isinstance(keys.get(key), Mapping) for key in _OF_A_RUN):
            about = {"metrics": content["metrics"], "parent": content.get("base")}
            about["trainer_config"] = content["train_config"]
            return SnacConfig.from_dict(content["config"]), content["model"], about
    found = checkpoint.read(ref)
    about = {"metrics": found.manifest.metrics if found.manifest else {}, "parent": found.version}
    return found.config, found.weights, about


def make_current(store: ModelStore, version: str, device: torch.device) -> None:
    """Make ``version`` current if it can be served from where it lies.

    Raises
    ------
    StoreError
        When it is not whole, or does not give its golden clip on ``device``.
    """
    try:
        load(store.path(version), device)
    except ModelError as error:
        raise StoreError(f"{version} is in {store.root} but not made current: {error}") from error
    store.set_current(version)


RANDOM = "random weights"
"""Stands in the place of a version for a run that starts from none."""


class PublishGate:
    """Publishes to one store the models that are better than what they replace.

    Parameters
    ----------
    store
        The store's folder.
    sets
        The segments on which two models are compared, and the configuration of the gate.
    known
        Figures by segment of versions on these segments, by id: of the base (`RANDOM` for
        random weights), and of what this run has published before. Those of a version that the
        gate measures are added.
    """

    def __init__(self, store: Path, sets: ValidationSets, known: dict[str, Segments]) -> None:
        self.store, self.sets, self.known = ModelStore(store), sets, known
        self.validation_set = sets.main

    def offer(self, path: Path, segments: Segments, base: str) -> str | None:
        """Publish the checkpoint at ``path`` if it should be; return the version, or None.

        A model is published if its loss is lower than that of the model that the run started
        from and than that of the version that it would replace, both by ``gate_gain`` and beyond
        the 95 % confidence interval of the paired differences, and if none of ``gate_metrics``,
        nor the loss on any of ``gate_sets``, is worse beyond its own interval. The manifest has
        these changes as ``gate``. Otherwise the log says why it is not.
        A model that does not give its golden clip is not published either, and a store that
        cannot be read or written does not end the run.

        Parameters
        ----------
        path
            Checkpoint of the model.
        segments
            Its figures, `Findings.segments`.
        base
            What the run started from, as ``known`` names it.
        """
        try:
            changes: dict[str, Any] = {}
            for version in dict.fromkeys((base, self.store.current())):
                if version is None:
                    continue
                if reason := self._objection(segments, version, base):
                    log.info("not published: %s", reason)
                    return None
                changes[version] = self._changes(segments, version)
            device = self.validation_set.world.device
            version = publish(path, self.store.root, device=device, gate=changes)
        except (SnacError, OSError, torch.OutOfMemoryError) as error:
            log.error("not published: %s", error)
            return None
        self.known[version] = segments
        said = ", ".join(f"{one['loss']['change']:+.4f} to {name}" for name, one in changes.items())
        log.info("published %s to %s: loss %s", version, self.store.root, said)
        return version

    def _objection(self, mine: Segments, version: str, base: str) -> str | None:
        """Return why a model with these figures should not replace ``version``, or None."""
        theirs = self._segments_of(version)
        name = "the model that the run started from"
        if version != base:
            name = (
                f"{version}, which it would replace and whose loss on the same segments is "
                f"{float(theirs['loss'].nanmean()):.4f}"
            )
        change = paired_change(mine["loss"], theirs["loss"])
        if not change.mean + change.ci95 < 0:
            return f"no better than {name}: loss {_said(change)}"
        least = self.validation_set.config.gate_gain
        if -change.mean < least * float(theirs["loss"].nanmean()):
            return f"not better by {least:.2%} (gate_gain) than {name}: loss {_said(change)}"
        for figure in self._guarded:
            change = paired_change(mine[figure], theirs[figure])
            worse = -change.mean if figure in RISING else change.mean
            if worse > change.ci95:
                return f"{figure} is worse than that of {name}: {_said(change)}"
        return None

    @property
    def _guarded(self) -> tuple[str, ...]:
        """The metrics that must not get worse, besides the loss."""
        config = self.validation_set.config
        return (*config.gate_metrics, *map(key, config.gate_sets))

    def _changes(self, mine: Segments, version: str) -> dict[str, dict[str, float]]:
        """Return the change against ``version``, and its interval, of each figure that has one."""
        theirs = self._segments_of(version)
        changes = {
            figure: paired_change(mine[figure], theirs[figure])
            for figure in ("loss", *self._guarded)
        }
        return {
            figure: {"change": change.mean, "ci95": change.ci95}
            for figure, change in changes.items()
            if math.isfinite(change.ci95)
        }

    def _segments_of(self, version: str) -> Segments:
        if version not in self.known:
            model = checkpoint.load_model(self.store.path(version)).to(
                self.validation_set.world.device
            )
            if model.config.sampling_rate != self.validation_set.sample_rate:
                raise ModelError(
                    f"{version}, which it would replace, is for {model.config.sampling_rate} Hz, "
                    f"not {self.validation_set.sample_rate}"
                )
            alone = World(self.validation_set.world.device)
            self.known[version] = self.sets.measure(model, alone).segments
        return self.known[version]


def _said(change: Change) -> str:
    if not math.isfinite(change.ci95):
        return f"{change.mean:+.4f}, without an interval, as there are fewer than two segments"
    return f"{change.mean:+.4f}, 95 % interval {change.ci95:.4f} to either side"
