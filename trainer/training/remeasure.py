"""Measures base and best model again after the validation recordings have changed."""

from __future__ import annotations

import dataclasses
import logging
import math

from snac_core.config import SnacConfig
from snac_core.errors import SnacError
from snac_core.store.weights import build, read_torch
from trainer.errors import TrainerError
from trainer.model.network import starting_model
from trainer.runtime.checkpointing import BEST
from trainer.runtime.stopping import Stopped
from trainer.training.model_selection import ModelSelection

log = logging.getLogger(__name__)


def measure_anew(selection: ModelSelection) -> None:
    """Measure the base and the best model so far on the present validation recordings.

    Raises
    ------
    TrainerError
        When the base is no longer where the run found it.
    Stopped
        When any process was asked to stop meanwhile; the figures are then those of before.
    """
    state, config = selection.state, selection.config
    before = dataclasses.replace(state)
    log.warning("the validation recordings are not those of before: measuring base and best again")
    try:
        best, state.best, state.no_better = selection.output / BEST, math.inf, 0
        if best.exists():
            content = read_torch(best)
            model = build(SnacConfig.from_dict(content["config"]), content["model"])
            measured = selection.sets.main.measure(model.to(selection.world.device))
            state.best = selection.score(measured.terms)
        try:
            base, version = starting_model(config)
        except SnacError as error:
            raise _refusal(str(error)) from error
        if version != selection.base_version:
            raise _refusal(f"{config.pretrained_model} is {version}, not {selection.base_version}")
        if config.guided_steps:
            raise _refusal("a model from random weights was fitted to the recordings of before")
        state.baseline, state.known = math.nan, {}
        selection.baseline(base.to(selection.world.device))
    except Stopped:
        state.load_state_dict(before.state_dict())
        raise


def _refusal(reason: str) -> TrainerError:
    return TrainerError(
        f"the validation recordings are not those of before, and the base cannot be measured on "
        f"them ({reason}): give back those of before, or start a new run from the checkpoint's "
        f"weights as pretrained_model"
    )
