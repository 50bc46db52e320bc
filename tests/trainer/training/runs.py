"""Training runs in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch

from tests.support.models import TINY
from trainer import config as configuration
from trainer.runtime.checkpointing import Writer
from trainer.runtime.distributed import World
from trainer.runtime.stopping import StopRequest
from trainer.training.loop import TrainingRun

CPU = torch.device("cpu")
LEARNING = {"freeze_encoder": False, "freeze_vq": False}
FROM_NOTHING = {"pretrained_model": None, "model": TINY.to_dict(), **LEARNING}


@contextmanager
def running(settings: dict[str, Any], **changes: Any) -> Iterator[TrainingRun]:
    """Begin a run of ``settings`` and ``changes``."""
    config = configuration.parse({**settings, **changes})
    torch.manual_seed(config.random_seed)
    with Writer() as writer, closing(TrainingRun(config, World(CPU), writer, StopRequest())) as run:
        yield run


def losses(run: TrainingRun, seconds: float) -> dict[str, float]:
    """Return the terms of the loss on the validation segments of so many seconds."""
    return run.validation_set.measure(run.model, seconds).terms
