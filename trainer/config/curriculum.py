"""Which segment length and batch an epoch trains with, and which learning rate a step."""

from __future__ import annotations

import math
from typing import NamedTuple

from trainer.config.schema import TrainConfig


class EpochPlan(NamedTuple):
    """What one epoch trains with."""

    length: float
    """Seconds in a segment."""
    batch: int
    """Segments in a batch."""


def plan(config: TrainConfig, epoch: int) -> EpochPlan:
    """Return the plan of ``epoch``, counted from 1.

    Epochs past the curriculum's end use its last stage; so do epochs in a gap of it, by
    the stage that ended before them.
    """
    if not config.curriculum:
        return EpochPlan(config.segment_length, config.batch_size)
    begun = [stage for stage in config.curriculum if stage.epochs[0] <= epoch]
    stage = begun[-1] if begun else config.curriculum[0]
    return EpochPlan(stage.length, max(1, int(config.batch_size * stage.batch_multiplier)))


def stage(config: TrainConfig, epoch: int) -> int:
    """Return the number of the stage that ``epoch`` belongs to, counted from 1."""
    return max(1, sum(one.epochs[0] <= epoch for one in config.curriculum))


def longest(config: TrainConfig) -> EpochPlan:
    """Return the plan with the longest segments: the one that validation uses."""
    return max(plan(config, epoch) for epoch in range(1, config.num_epochs + 1))


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
