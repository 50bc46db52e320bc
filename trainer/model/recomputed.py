"""Gradient checkpointing: the backward pass recomputes what the forward pass did not store.

Chen et al., arXiv:1604.06174. What is kept are the inputs of residual units and of the layers
between them, instead of everything in these. Gradients are the same, as the decoder's noise
depends on a seed and a position alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.layers import Chain, DecoderBlock, EncoderBlock, ResidualUnit


class Recomputed:
    """Encoder and decoder of a model that is trained with less memory.

    Parameters
    ----------
    model
        Whose layers are used.
    """

    def __init__(self, model: SNAC) -> None:
        self._encoder = list(_parts(model.encoder.block))
        self._decoder = list(_parts(model.decoder.model))

    def encoder(self, audio: Tensor, context: BatchContext) -> Tensor:
        """Return what `snac_core.model.layers.Encoder` does."""
        return _pass(self._encoder, audio, context)

    def decoder(self, latent: Tensor, context: BatchContext) -> Tensor:
        """Return what `snac_core.model.layers.Decoder` does."""
        return _pass(self._decoder, latent, context)


def _pass(parts: list[nn.Module], x: Tensor, context: BatchContext) -> Tensor:
    for part in parts:
        x = checkpoint(part, x, context, use_reentrant=False, preserve_rng_state=False)
    return x


def _parts(chain: Chain) -> Iterator[nn.Module]:
    """Yield each residual unit, and between two of them all other layers together."""
    units = itertools.groupby(_layers(chain), lambda layer: isinstance(layer, ResidualUnit))
    for alone, layers in units:
        if alone:
            yield from layers
        else:
            yield Chain(*layers)


def _layers(chain: Chain) -> Iterator[nn.Module]:
    for module in chain:
        if isinstance(module, (EncoderBlock, DecoderBlock)):
            yield from _layers(module.block)
        else:
            yield module
