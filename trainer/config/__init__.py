"""The configuration of a run: keys, rules and curriculum."""

from __future__ import annotations

from trainer.config.parsing import load, parse
from trainer.config.schema import TrainConfig
from trainer.config.types import Source, Stage

__all__ = ["Source", "Stage", "TrainConfig", "load", "parse"]
