"""The curriculum: segment length and batch size by epoch, and learning rate by step."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

from trainer.config.schema import TrainConfig
from trainer.config.types import Stage


class EpochPlan(NamedTuple):
    """Segment length and batch size of one epoch."""

    length: float
    """Seconds in a segment."""
    batch: int
    """Segments in a batch."""


class Epoch(NamedTuple):
    """One pass over the training data, or a part of one where a stage ends within it."""

    plan: EpochPlan
    stage: int
    """Counted from 1."""
    steps: int
    """Batches that are taken of the pass."""


def epochs(config: TrainConfig, steps_of: Callable[[EpochPlan], int]) -> list[Epoch]:
    """Return the epochs of a run, at most ``num_epochs``.

    Epochs past the curriculum's end use its last stage; so do epochs in a gap of it, by the
    stage that ended before them. Stages that count steps follow each other, each in as many
    passes as its steps take, and end the run.

    Parameters
    ----------
    config
        Of the run.
    steps_of
        Tells how many batches a whole pass has.
    """
    if by_steps(config):
        found: list[Epoch] = []
        for number, one in enumerate(config.curriculum, 1):
            now, left = _plan(config, one), one.steps or 0
            whole = max(1, steps_of(now))
            found += [Epoch(now, number, min(whole, left - done)) for done in range(0, left, whole)]
        return found[: config.num_epochs]
    found = []
    for epoch in range(1, config.num_epochs + 1):
        begun = sum(one.epochs is not None and one.epochs[0] <= epoch for one in config.curriculum)
        stage = max(1, begun)
        now = _plan(config, config.curriculum[stage - 1]) if config.curriculum else _only(config)
        found.append(Epoch(now, stage, steps_of(now)))
    return found


def by_steps(config: TrainConfig) -> bool:
    """Whether the stages of the curriculum count steps, rather than epochs."""
    return bool(config.curriculum) and config.curriculum[0].steps is not None


def plans(config: TrainConfig) -> list[EpochPlan]:
    """Return the distinct plans of a run's epochs, in order."""
    # How long a pass is makes a difference to how many epochs there are, and to no plan.
    return list(dict.fromkeys(one.plan for one in epochs(config, lambda plan: sys.maxsize)))


def longest(config: TrainConfig) -> EpochPlan:
    """Return the plan with the longest segments: the one that validation uses."""
    return max(plans(config))


def _plan(config: TrainConfig, stage: Stage) -> EpochPlan:
    return EpochPlan(stage.length, max(1, int(config.batch_size * stage.batch_multiplier)))


def _only(config: TrainConfig) -> EpochPlan:
    return EpochPlan(config.segment_length, config.batch_size)


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Return the rate for ``step``, counted from 0: linear warm-up, then a cosine.

    The cosine ends at ``lr_min_ratio`` of the configured rate (Loshchilov and Hutter,
    arXiv:1608.03983, without restarts).
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(1, total_steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.learning_rate * (config.lr_min_ratio + (1.0 - config.lr_min_ratio) * cosine)
