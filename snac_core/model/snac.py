"""The SNAC network: encoder, quantizer, decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snac_core.config import SnacConfig
from snac_core.model.batch_context import BatchContext
from snac_core.model.layers import Decoder, Encoder
from snac_core.model.quantizer import Level, ResidualVectorQuantize, VectorQuantize


class Reconstruction(NamedTuple):
    """What training looks at after one pass."""

    audio: Tensor
    """Tensor[B x 1 x T]."""
    levels: list[Level]
    """One per level, coarse to fine."""


class SNAC(nn.Module):
    """Multi-scale neural audio codec; state-dict keys are those of published checkpoints.

    Every length here is a multiple of ``config.pad_multiple`` samples; `Codec` is the face
    that takes any length.
    """

    def __init__(self, config: SnacConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = ResidualVectorQuantize(config)
        self.decoder = Decoder(config)

    def encode(self, audio: Tensor, context: BatchContext | None = None) -> list[Tensor]:
        """Return int64 codes, one Tensor[B x T/(hop*stride)] per level.

        Parameters
        ----------
        audio
            Tensor[B x 1 x T] of float32 in [-1, 1].
        context
            Which samples are each item's own; None when all are.
        """
        latent = self.encoder(audio, context or BatchContext(audio.shape[-1]))
        return self.quantizer.encode(latent)

    def decode(self, codes: list[Tensor], context: BatchContext | None = None) -> Tensor:
        """Return audio, Tensor[B x 1 x T], of one Tensor[B x T/(hop*stride)] per level."""
        latent = self.quantizer.decode(codes)
        return self.decoder(latent, context or BatchContext(latent.shape[-1] * self.config.hop))  # type: ignore[no-any-return]

    def forward(self, audio: Tensor, context: BatchContext | None = None) -> Reconstruction:
        """Encode and decode ``audio``, Tensor[B x 1 x T], keeping what the losses need.

        Without an ``context``, decoder noise is random, as in training.
        """
        context = context or BatchContext(audio.shape[-1], noise="random")
        latent, levels = self.quantizer(self.encoder(audio, context))
        return Reconstruction(self.decoder(latent, context), levels)

    @torch.no_grad()
    def fold(self) -> SNAC:
        """Compute once what only weights decide, in place, for inference.

        Each weight-norm pair is replaced by the weight it stands for.
        """
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
            if isinstance(module, VectorQuantize):
                module.fold()
        return self
