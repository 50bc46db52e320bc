"""Loads discriminators from an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snac_core.store.weights import read_torch
from trainer.errors import TrainerError
from trainer.losses.discriminators import Discriminators


def load_discriminators(discriminators: Discriminators, path: str | Path) -> Mapping[str, Any]:
    """Give ``discriminators`` the weights of those in a run's checkpoint.

    Returns
    -------
    The state of their optimizer.

    Raises
    ------
    ModelError
        When the checkpoint cannot be read.
    TrainerError
        When it has no discriminators, or some of another shape.
    """
    content = read_torch(Path(path))
    run = content.get("run") if isinstance(content, Mapping) else None
    learner = run.get("learner") if isinstance(run, Mapping) else None
    if not isinstance(learner, Mapping) or "adversary" not in learner:
        raise TrainerError(
            f"{path} has no discriminators: give a checkpoint_epoch*.pt or checkpoint_latest.pt "
            f"of a run with adversarial_weight or feature_weight above 0"
        )
    try:
        discriminators.load_state_dict(learner["adversary"])
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise TrainerError(
            f"the discriminators in {path} are not those that the configuration describes: {reason}"
        ) from error
    state: Mapping[str, Any] = learner["rival_optimizer"]
    return state
