"""Initialises a model with random weights before its first step."""

from __future__ import annotations

import torch
from torch import Tensor

from snac_core.config import SnacConfig
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.model.compile import uncompiled
from trainer.model.initialisation import scale_to
from trainer.model.mel_target import fit
from trainer.training.epochs import Epochs
from trainer.training.learner import Learner

FITTED_LATENTS = 10
"""Latents of the coarsest level, for each of its entries, that a mel target is fitted to."""


def check_enough_audio(config: TrainConfig, epochs: Epochs, codec: SnacConfig) -> None:
    """Raise TrainerError when the first epoch is too short for a guided start's codebooks.

    The quantizer's entries are clusters of the latents that the first process reads in that epoch.
    """
    if not config.guided_steps:
        return
    first = epochs.all[0]
    segments = first.steps * (first.plan.batch // epochs.world.size)
    samples = codec.padded_samples(round(first.plan.length * codec.sampling_rate))
    latents = segments * samples // codec.frame_samples
    if latents < codec.codebook_size:
        needed = codec.codebook_size * codec.frame_samples / codec.sampling_rate
        raise TrainerError(
            f"guided_steps is {config.guided_steps}, and the first epoch gives each process "
            f"{segments * samples / codec.sampling_rate:.0f} s of audio: its {latents} latents are "
            f"too few for a codebook of {codec.codebook_size} entries; train on at least "
            f"{needed:.0f} s for each process, or set guided_steps to 0"
        )


def fit_mel_target(learner: Learner, epochs: Epochs) -> None:
    """Scale the learner's model, and fit its quantizer to speech features."""
    model, world, mel_target = learner.model, learner.world, learner.mel_target
    assert mel_target is not None
    quantizer, latents = model.quantizer, 0.0
    wanted = FITTED_LATENTS * len(quantizer.quantizers[0].codebook.weight)  # type: ignore
    audio: list[Tensor] = []
    batches = epochs.batches(1)
    iterator = iter(batches)
    for _ in range(len(batches)):
        part = epochs.next(iterator)[0].audio
        if len(part) and world.main:
            audio.append(part)
            latents += part.numel() / model.config.frame_samples
        # All read on until the first process, which alone fits, has enough.
        if world.broadcast_object(latents >= wanted):
            break
    if world.main:
        with uncompiled(learner.config.compile):
            fit(mel_target, quantizer, audio)
            scale_to(model, torch.cat(audio[:8]), mel_target)
    world.broadcast_([*model.parameters(), *mel_target.buffers()])
    if learner.ema is not None:
        learner.ema.model.load_state_dict(model.state_dict())
