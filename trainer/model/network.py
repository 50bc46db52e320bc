"""The network in training: where its weights come from, and how a pass through it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from snac_core.config import SnacConfig
from snac_core.model import SNAC, Reconstruction
from snac_core.model.batch_context import BatchContext
from snac_core.model.quantizer import VectorQuantize
from snac_core.store import checkpoint
from snac_core.store.weights import build
from trainer.config import TrainConfig
from trainer.model.mel_target import MelTarget
from trainer.model.tf32 import tf32


class Layers(Protocol):
    """What computes the encoder and the decoder of a model."""

    def encoder(self, audio: Tensor, context: BatchContext) -> Tensor:
        """Return the latent of ``audio``, as `snac_core.model.layers.Encoder` does."""
        ...

    def decoder(self, latent: Tensor, context: BatchContext) -> Tensor:
        """Return the audio of ``latent``, as `snac_core.model.layers.Decoder` does."""
        ...


def starting_model(config: TrainConfig) -> tuple[SNAC, str | None]:
    """Return the model to train, what is frozen frozen, and the version that it starts from.

    The version is None for random weights.

    Raises
    ------
    SnacError
        When there is no such model, or it cannot be read.
    """
    version = None
    if config.pretrained_model is not None:
        base = checkpoint.read(config.pretrained_model)
        model, version = build(base.config, base.weights), base.version
    else:
        assert config.model is not None
        model = SNAC(config.model)
        with torch.no_grad():
            # A first output near zero: a saturated tanh has no slope to learn from.
            last = model.decoder.model[-2]
            last.parametrizations.weight.original0.mul_(0.05)  # type: ignore[union-attr, operator]
    return frozen(model, config), version


def resumed_model(content: Mapping[str, Any], config: TrainConfig) -> tuple[SNAC, str | None]:
    """Return what `starting_model` does, from a checkpoint of the run.

    The base itself need no longer be where the run found it.
    """
    model = build(SnacConfig.from_dict(content["config"]), content["model"])
    return frozen(model, config), content["base"]


def frozen(model: SNAC, config: TrainConfig) -> SNAC:
    """Return ``model`` with gradients for what is to learn by them alone."""
    model.encoder.requires_grad_(not config.freeze_encoder)
    model.quantizer.requires_grad_(config.quantizer_trains)
    if not config.codebook_weight:
        # The straight-through gradient passes the entries by; only `CodebookUsage` moves them.
        for level in model.quantizer.quantizers:
            cast(VectorQuantize, level).codebook.requires_grad_(False)
    return model


class Network(nn.Module):
    """`reconstruct` as a module, which is what can be divided over processes.

    Parameters
    ----------
    model, config, mel_target
        Of the run.
    layers
        What computes the encoder and the decoder of ``model``; None for the layers as written.
    """

    def __init__(
        self,
        model: SNAC,
        config: TrainConfig,
        mel_target: MelTarget | None = None,
        layers: Layers | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.mel_target, self.layers = model, config, mel_target, layers

    def forward(
        self, audio: Tensor, context: BatchContext, guided: bool = False
    ) -> tuple[Reconstruction, Tensor | None]:
        """Pass ``audio``, Tensor[B x 1 x T], through the model, its padding kept apart.

        Returns
        -------
        What came out, and, with a ``mel_target``, how far the encoder's latent is from its
        features. If ``guided``, the decoder was fed those, quantized.
        """
        if self.mel_target is None:
            return reconstruct(self.model, audio, self.config, context, self.layers), None
        layers = self.model if self.layers is None else self.layers
        features = self.mel_target(audio)
        device, half = audio.device.type, self.config.precision == "bf16"
        with torch.autocast(device, torch.bfloat16, enabled=half):
            latent = layers.encoder(audio, context).float()
        fed, levels = self.model.quantizer(features if guided else latent)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            made = layers.decoder(fed, context)
        return Reconstruction(made, levels), self.mel_target.distance(latent, features)


def reconstruct(
    model: SNAC,
    audio: Tensor,
    config: TrainConfig,
    context: BatchContext,
    layers: Layers | None = None,
) -> Reconstruction:
    """Pass ``audio``, Tensor[B x 1 x T], through ``model``, each segment to its own end.

    Its encoder and decoder are computed by ``layers``, if there are any.

    In bf16, if so configured, only where something learns: a frozen encoder makes the codes
    that it will make in service. The quantizer is always in fp32, as bf16 would choose other
    entries. What is frozen takes part in no gradient.
    """
    by = model if layers is None else layers
    device, half = audio.device.type, config.precision == "bf16"
    with (
        torch.autocast(device, torch.bfloat16, enabled=half and not config.freeze_encoder),
        tf32(config.allow_tf32 and not config.freeze_encoder),
    ):
        latent = by.encoder(audio, context).float()
    with tf32(False):
        latent, levels = model.quantizer(latent)
    with torch.autocast(device, torch.bfloat16, enabled=half):
        made = by.decoder(latent, context)
    return Reconstruction(made, levels)
