"""What a run would do, said before it does anything: ``snac-trainer train --dry-run``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from snac_core.model import SNAC
from trainer.config import TrainConfig, curriculum
from trainer.config.advice import advice
from trainer.data.sources import TrainingData
from trainer.errors import TrainerError
from trainer.losses.discriminators import Discriminators
from trainer.losses.losses import Losses
from trainer.model.network import reconstruct, starting_model
from trainer.runtime import resume
from trainer.runtime.distributed import World
from trainer.training.batches import Batch, DeviceTransfer
from trainer.training.earlier_discriminators import load_discriminators
from trainer.training.epochs import Epochs
from trainer.training.find_data import find_data

PARTS = ("encoder", "quantizer", "decoder")
ADAM_COPIES = 4
"""Of each weight that learns: itself, its gradient, and the optimizer's two means."""


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
        + ("changes" if config.quantizer_trains else "stays that of the base model"),
        f"memory: about {_memory(config, model, processes) / 2**30:.2f} GiB per process, while the "
        f"largest batch is learnt from",
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


def _memory(config: TrainConfig, model: SNAC, processes: int) -> int:
    """Return bytes: weights, gradients, optimizers, and what the backward pass needs to keep.

    That is measured on one frame or more of noise, on the CPU, and scaled to the largest batch.
    """
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    total = weights + 4 * (ADAM_COPIES - 1) * learning + bool(config.ema_decay) * weights
    discriminators = Discriminators(config) if config.adversarial else None
    if discriminators is not None:
        total += 4 * ADAM_COPIES * sum(weight.numel() for weight in discriminators.parameters())
    parts = processes * config.accumulate
    largest = max(plan.length * -(-plan.batch // parts) for plan in curriculum.plans(config))
    samples = model.config.padded_samples(model.config.sampling_rate // 4)
    kept = _kept(config, model, discriminators, samples)
    return total + int(kept * largest * model.config.sampling_rate / samples)


def _kept(
    config: TrainConfig, model: SNAC, discriminators: Discriminators | None, samples: int
) -> int:
    """Return the bytes that autograd keeps of one pass of ``samples`` samples."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # Held, so that no other tensor comes to lie in its place.
            alive.append(tensor.detach())
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    audio = 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0))
    batch = Batch(audio, torch.ones_like(audio), torch.zeros(1, dtype=torch.int64))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = reconstruct(model, batch.audio, config, batch.context(model.config, batch.noise(0)))
        terms = Losses(config, model.config.sampling_rate)(out, batch.audio, batch.own)
        if discriminators is not None:
            terms |= discriminators.generator_terms(out.audio, batch.audio, batch.own)
    return sum(sizes.values())
