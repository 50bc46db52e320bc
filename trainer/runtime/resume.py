"""Resuming a run exactly: which checkpoint to load, and what state it must contain."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snac_core.errors import ModelError
from snac_core.store.weights import read_torch
from trainer import config as configuration
from trainer.config import TrainConfig, curriculum
from trainer.errors import TrainerError
from trainer.runtime.checkpointing import BEST, checkpoints
from trainer.runtime.distributed import World, restarted

log = logging.getLogger(__name__)

AUTO = "auto"

_FREE = frozenset(
    {
        *("output_dir", "experiment_name", "train_data", "val_data", "pretrained_model"),
        *("num_workers", "resume", "save_every", "save_every_batches", "save_every_minutes"),
        *("keep_checkpoints", "publish_to", "sample_clips", "early_stop_patience", "min_delta"),
        *("max_bad_steps", "log_every", "tracker", "profile_steps", "gradient_checkpointing"),
        *("val_sets", "gate_sets", "gate_gain", "discriminator_checkpoint"),
    }
)
"""Keys that may differ from those of the run that is gone on with. Folders may have moved."""

_CHANGING = frozenset(
    {
        *("num_epochs", "max_steps", "batch_size", "accumulate", "learning_rate", "lr_min_ratio"),
        *("discriminator_learning_rate", "discriminator_every", "grad_clip"),
        *("allow_tf32", "cudnn_benchmark"),
    }
)
"""Keys that may differ too, but change what follows. The optimizers' states are kept.

Not so that the longest stage is another: validation takes its segments' length from there."""

_OUTPUTS = (
    *("config.json", "baseline_metrics.json", BEST, "metrics.csv", "unreadable.csv", "logs"),
)


def resumed_path(config: TrainConfig) -> Path | None:
    """Return the checkpoint to go on from; None to start anew.

    ``resume`` is a path, or ``auto`` for the newest checkpoint in ``output_dir``, as is meant
    too where torchrun starts this process again.

    Raises
    ------
    TrainerError
        When ``resume`` names a file that is not there.
    """
    if config.resume is None and not restarted():
        return None
    found = checkpoints(Path(config.output_dir))
    if config.resume in (None, AUTO) or (restarted() and found):
        return found[0] if found else None
    path = Path(str(config.resume))
    if not path.is_file():
        raise TrainerError(f"there is no checkpoint {path} to resume from")
    return path


def read(config: TrainConfig, world: World) -> dict[str, Any] | None:
    """Return the checkpoint that `resumed_path` names, having checked that it is of this run.

    All processes read what the first one chooses, so that a checkpoint must be where all of
    them find it. With ``auto``, one that cannot be read is logged and the next older one taken.

    Raises
    ------
    SnacError
        When there are checkpoints and none can be used, or it was made with other settings.
    """
    path = world.broadcast_object(resumed_path(config))
    if path is None:
        if config.resume == AUTO or restarted():
            log.info("no checkpoint in %s: starting anew", config.output_dir)
        return None
    older = checkpoints(path.parent) if config.resume in (None, AUTO) else []
    older = older[older.index(path) + 1 :] if path in older else []
    while True:
        try:
            content = read_torch(path)
            break
        except ModelError as error:
            if not older:
                raise
            log.warning("%s; trying the one before", error)
            path = older.pop(0)
    if not isinstance(content, Mapping) or not isinstance(content.get("run"), Mapping):
        raise TrainerError(f"{path} is no checkpoint that a run can go on from")
    check_settings(config, content["train_config"], path)
    log.info("going on from %s, step %d", path, content["step"])
    return dict(content)


def check_settings(config: TrainConfig, before: Mapping[str, Any], path: Path) -> None:
    """Refuse settings that cannot resume the run that wrote ``path``.

    Raises
    ------
    TrainerError
        Naming the keys that differ, with both values.
    """
    earlier = configuration.parse(before)
    then, now = earlier.to_dict(), config.to_dict()
    differing = [key for key in now if now[key] != then[key] and key not in _FREE]
    said = ", ".join(f"{key} {then[key]!r} -> {now[key]!r}" for key in differing)
    if any(key not in _CHANGING for key in differing):
        raise TrainerError(
            f"{path} was made with other settings ({said}); to start a new run from its weights, "
            f"give it as pretrained_model"
        )
    lengths = [curriculum.longest(one).length for one in (earlier, config)]
    if lengths[0] != lengths[1]:
        raise TrainerError(
            f"{path} was validated on segments of {lengths[0]:g} s, and num_epochs "
            f"{config.num_epochs} makes that {lengths[1]:g} s, whose losses do not compare with "
            f"the best so far: give a num_epochs whose longest stage has {lengths[0]:g} s, or "
            f"start a new run with this checkpoint as pretrained_model"
        )
    if differing:
        log.warning("other settings, and their learning rates, hold from here on: %s", said)


def set_aside(output: Path) -> Path | None:
    """Move the files of an earlier run in ``output`` to a subfolder, and return its path.

    A new run must not go on from, nor overwrite, what is another's.
    """
    left = [path for name in _OUTPUTS if (path := output / name).exists()]
    left += checkpoints(output)
    if not any(path.suffix == ".pt" for path in left):
        return None
    number = 1
    while (place := output / f"earlier-{number}").exists():
        number += 1
    place.mkdir()
    for path in left:
        path.rename(place / path.name)
    log.warning("an earlier run's files are now in %s", place)
    return place


def random_states(world: World) -> list[dict[str, Any]]:
    """Return the state of every random generator of every process."""
    name, keys, *rest = np.random.get_state(legacy=True)
    mine: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (str(name), np.asarray(keys).tolist(), *rest),
    }
    if world.device.type == "cuda":
        mine["cuda"] = torch.cuda.get_rng_state(world.device)
    return world.gather(mine)


def set_random_states(states: list[Mapping[str, Any]], world: World) -> None:
    """Restore what `random_states` returned, for as many processes as it has."""
    if world.rank >= len(states):
        return
    mine = states[world.rank]
    torch.set_rng_state(mine["torch"])
    version, internal, gauss = mine["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = mine["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    if world.device.type == "cuda" and "cuda" in mine:
        torch.cuda.set_rng_state(mine["cuda"], world.device)
