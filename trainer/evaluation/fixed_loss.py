"""The training loss of finished models on the validation crops of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise
from snac_core.utils.commands import progress
from trainer import config as configuration
from trainer.config import TrainConfig, curriculum
from trainer.data.segments import Clip, ValidationSegments
from trainer.losses.losses import Losses

DEFAULT_CONFIG = (Path(configuration.__file__).parents[1] / "configs") / "phase10_revolab_all.json"
"""Whose loss and fixed crops are used unless a run says otherwise."""

Terms = dict[str, float]


def default_config() -> TrainConfig:
    """Return the configuration that says how loss is computed where no run does."""
    return configuration.load(DEFAULT_CONFIG)


@torch.inference_mode()
def fixed_losses(
    models: Mapping[str, SNAC], clips: Sequence[Clip], config: TrainConfig, device: torch.device
) -> dict[str, dict[str, Terms]]:
    """Return each model's loss terms on each fixed crop, by the recording it is cut from.

    The crops, the noise in the decoder and the terms are those of a training run's
    validation with the same configuration and recordings: at most ``val_segments`` crops,
    as long as the longest stage's segments.

    Parameters
    ----------
    models
        By role; all of one sample rate, on ``device``.
    clips
        The recordings, in the order in which training would find them.
    config
        Says which crops, and which terms with what weight.
    device
        Where to compute.

    Returns
    -------
    dict
        Terms by the recording's name and role. A crop that cannot be read is not in it.
    """
    sample_rate = next(iter(models.values())).config.sampling_rate
    seconds = curriculum.longest(config).length
    segments = ValidationSegments(
        clips, seconds, sample_rate, config.val_segments, config.random_seed
    )
    losses = Losses(config, sample_rate).to(device)
    found: dict[str, dict[str, Terms]] = {}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for index, clip in enumerate(progress(segments.clips, desc="fixed crops", unit="crop")):
            segment = segments[index]
            audio, own = segment.audio[None].to(device), segment.own[None].to(device)
            if not own.any():
                continue
            seed = torch.tensor([index], device=device)
            found[clip.name] = {
                role: _terms(model, losses, audio, own, Noise(seed, torch.zeros_like(seed)))
                for role, model in models.items()
            }
    return found


def _terms(
    model: SNAC, losses: Losses, audio: torch.Tensor, own: torch.Tensor, noise: Noise
) -> Terms:
    multiple = model.config.pad_multiple
    pad = (0, -audio.shape[-1] % multiple)
    audio, own = F.pad(audio, pad), F.pad(own, pad)
    frames = (own.sum(dim=(1, 2)).long() + multiple - 1) // multiple * multiple
    out = model(audio, BatchContext(audio.shape[-1], frames, noise))
    return {name: float(value) for name, value in losses(out, audio, own).items()}
