"""The plan of a run: ``snac-trainer train --dry-run``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from snac_core.model import SNAC
from trainer.config import TrainConfig, curriculum
from trainer.config.advice import advice
from trainer.data.sources import TrainingData
from trainer.errors import TrainerError
from trainer.losses.discriminators import Discriminators
from trainer.model.network import starting_model
from trainer.runtime import resume
from trainer.runtime.distributed import World
from trainer.training.batches import DeviceTransfer
from trainer.training.earlier_discriminators import load_discriminators
from trainer.training.epochs import Epochs
from trainer.training.find_data import find_data
from trainer.training.guided_start import check_enough_audio
from trainer.training.memory import memory

PARTS = ("encoder", "quantizer", "decoder")
ROOM_GIB = 70.0
"""What a GPU of 80 GB has for tensors, beside CUDA's own and what lies between tensors."""


def plan(config: TrainConfig, processes: int = 1) -> str:
    """Return the resolved plan of a run as text; it touches nothing and uses no GPU.

    Parameters
    ----------
    config
        What would be run.
    processes
        How many would share each batch.

    Raises
    ------
    SnacError
        Where the run would not start either.
    """
    model, version = starting_model(config)
    data, validation, named = find_data(config, World(torch.device("cpu")))
    path = resume.resumed_path(config)
    if path is not None:
        resume.read(config, World(torch.device("cpu")))
    _check_writable(Path(config.output_dir))
    if config.publish_to is not None:
        _check_writable(Path(config.publish_to))
    if config.discriminator_checkpoint is not None and path is None:
        load_discriminators(Discriminators(config), config.discriminator_checkpoint)
    world = World(torch.device("cpu"), 0, processes)
    epochs = Epochs(config, data, model.config, world, DeviceTransfer(world, model.config))
    if path is None:
        check_enough_audio(config, epochs, model.config)
    steps = sum(epoch.steps for epoch in epochs.all)
    total = min(config.max_steps or steps, steps)
    lines = [
        f"{config.name}: {version or 'random weights'}, {model.config.sampling_rate} Hz",
        f"train: {data.recordings} recordings, {data.seconds / 3600:.2f} h",
        f"validate: {min(config.val_segments, len(validation))} segments of "
        f"{curriculum.longest(config).length:g} s from {len(validation)} recordings",
        *(f"validate {name}: from {len(clips)} recordings" for name, clips in named.items()),
        *_stages(config, data, epochs, processes),
        f"steps: {total}" + (f" of {steps}, as max_steps says" if total < steps else ""),
        *_weights(model),
        "token space: "
        + ("changes" if config.token_space_changes else "stays that of the base model"),
        _memory(config, model, processes),
        f"output: {config.output_dir}",
        *(f"warning: {text}" for text in advice(config, total)),
        f"resume: {path}" if path is not None else "resume: nothing, it starts anew",
    ]
    return "\n".join(lines)


def _check_writable(folder: Path) -> None:
    """Raise TrainerError when ``folder`` is not there and cannot be made, or written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise TrainerError(f"{folder} cannot be written: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise TrainerError(f"{folder} cannot be written: {there} may not be written to")


def _stages(
    config: TrainConfig, data: TrainingData, epochs: Epochs, processes: int
) -> Iterator[str]:
    """Yield a line for each run of epochs that are alike."""
    first = 1
    for now, same in itertools.groupby(epochs.all):
        last = first + len(list(same)) - 1
        length, batch = now.plan
        shares = sorted(
            {len(World(torch.device("cpu"), r, processes).share(batch)) for r in range(processes)}
        )
        shared = f" ({' or '.join(map(str, shares))} in each of {processes} processes)"
        short = data.shorter(length)
        padded = f", {short} recordings are shorter and padded" if short else ""
        parts = f", in {config.accumulate} parts" if config.accumulate > 1 else ""
        yield (
            f"epochs {first}-{last}: {length:g} s x {batch}"
            f"{shared if processes > 1 else ''}{parts}, {now.steps} steps per epoch{padded}"
        )
        first = last + 1


def _weights(model: SNAC) -> Iterator[str]:
    for name in PARTS:
        part: nn.Module = getattr(model, name)
        learn = sum(weight.numel() for weight in part.parameters() if weight.requires_grad)
        held = sum(weight.numel() for weight in part.parameters()) - learn
        said = [f"{learn:,} weights learn"] * bool(learn) + [f"{held:,} are frozen"] * bool(held)
        yield f"{name}: {', '.join(said)}"


def _memory(config: TrainConfig, model: SNAC, processes: int) -> str:
    """Return what a process takes, and what makes that fit a usual GPU."""
    taken = memory(config, model, processes) / 2**30
    text = (
        f"memory: about {taken:.2f} GiB of tensors per process, while the largest batch is learnt "
        f"from"
    )
    parts = config.accumulate
    while taken > ROOM_GIB and parts < max(plan.batch for plan in curriculum.plans(config)):
        parts *= 2
        divided = config.model_copy(update={"accumulate": parts})
        taken = memory(divided, model, processes) / 2**30
    if parts == config.accumulate:
        return text
    return f"{text}; with accumulate {parts}, about {taken:.2f} GiB, which a GPU of 80 GB has"
