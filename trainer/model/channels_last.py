"""The encoder and the decoder in training on a CPU: the same layers, computed channels-last.

A signal is Tensor[B x T x C]. Residual units, activations and noise are computed by
`snac_core.kernels.training`, which passes each signal once; convolutions are products of
matrices. Values and gradients are those of the layers as written, up to rounding; layers that
have no faster form are computed as written.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_core.kernels.training import TrainingKernels, UnitWeights, training_kernels
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.layers import (
    Chain,
    DecoderBlock,
    EncoderBlock,
    NoiseBlock,
    ResidualUnit,
    Snake1d,
)
from trainer.config import TrainConfig
from trainer.model.convolutions import down_sample, from_mono, to_mono, up_sample


class ChannelsLast:
    """Encoder and decoder of a model that is trained.

    Parameters
    ----------
    model
        Whose weights are used, as they are at each call.
    kernels
        What computes residual units, activations and noise.
    """

    def __init__(self, model: SNAC, kernels: TrainingKernels) -> None:
        self.kernels = kernels
        self._encoder = list(_layers(model.encoder.block))
        self._decoder = list(_layers(model.decoder.model))

    def encoder(self, audio: Tensor, context: BatchContext) -> Tensor:
        """Return what `snac_core.model.layers.Encoder` does."""
        return self._pass(self._encoder, audio, context)

    def decoder(self, latent: Tensor, context: BatchContext) -> Tensor:
        """Return what `snac_core.model.layers.Decoder` does."""
        return self._pass(self._decoder, latent, context)

    def _pass(self, layers: list[nn.Module], x: Tensor, context: BatchContext) -> Tensor:
        """Return Tensor[B x C x T] for ``x`` of the same form."""
        x = x.transpose(1, 2)
        snake: Snake1d | None = None
        for layer in layers:
            if isinstance(layer, Snake1d):
                # Computed by the convolution that follows it, with its padding.
                snake = layer
            elif isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)):
                if snake is None:
                    x = self._alone(layer, x, context)
                else:
                    x, snake = self._activated(snake, layer, x, context), None
            elif isinstance(layer, ResidualUnit):
                x = self._unit(layer, x, context)
            elif isinstance(layer, NoiseBlock):
                noise = context.normal(x.transpose(1, 2), layer.index)
                if noise is not None:
                    x = self.kernels.noise(x, noise[:, 0], layer.linear.weight[..., 0])
            else:
                x = layer(x.transpose(1, 2)).transpose(1, 2)
        return x.transpose(1, 2)

    def _unit(self, unit: ResidualUnit, x: Tensor, context: BatchContext) -> Tensor:
        first, wide, second, mix = unit.block
        assert isinstance(first, Snake1d)
        assert isinstance(second, Snake1d)
        assert isinstance(wide, nn.Conv1d)
        assert isinstance(mix, nn.Conv1d)
        if wide.groups != wide.in_channels:
            made: Tensor = unit(x.transpose(1, 2), context)
            return made.transpose(1, 2)
        assert wide.bias is not None
        assert mix.bias is not None
        weights = UnitWeights(
            *(first.alpha.flatten(), wide.weight[:, 0].t(), wide.bias),
            *(second.alpha.flatten(), mix.weight[..., 0], mix.bias),
        )
        return self.kernels.unit(x, _ends(context, x), wide.dilation[0], weights)

    def _activated(
        self, snake: Snake1d, conv: nn.Conv1d | nn.ConvTranspose1d, x: Tensor, context: BatchContext
    ) -> Tensor:
        """Return ``conv`` of the activation of ``x``: a change of rate, or the last layer."""
        stride, padding = conv.stride[0], int(conv.padding[0])
        up = isinstance(conv, nn.ConvTranspose1d)
        around = (1, 1) if up else (padding, (stride if stride > 1 else 2 * padding) - padding)
        x = self.kernels.snake(x, snake.alpha.flatten(), _ends(context, x), *around)
        if stride == 1:
            return to_mono(x, conv.weight[0].t(), conv.bias)
        # Its kernel is two strides long, and a product takes one of them.
        halves = conv.weight.permute(2, 1, 0).reshape(2, -1, conv.weight.shape[0])
        return up_sample(x, halves, conv.bias, padding) if up else down_sample(x, halves, conv.bias)

    def _alone(
        self, conv: nn.Conv1d | nn.ConvTranspose1d, x: Tensor, context: BatchContext
    ) -> Tensor:
        """Return ``conv`` of ``x``: into channels, between them, or of the latent."""
        if conv.kernel_size[0] == 1:
            return F.linear(x, conv.weight[..., 0], conv.bias)
        x = context.mask(x.transpose(1, 2))
        if conv.in_channels == 1:
            return from_mono(x[:, 0], conv.weight[:, 0], conv.bias)
        made: Tensor = conv(x)
        return made.transpose(1, 2)


def channels_last(config: TrainConfig, model: SNAC, device: torch.device) -> ChannelsLast | None:
    """Return the encoder and decoder of ``model`` by kernels; None where they run as written.

    That is on a GPU, in bf16, and where the configuration or the machine has no kernels.

    Raises
    ------
    KernelsError
        When ``config.kernels`` is ``on`` and there are none.
    """
    if device.type != "cpu" or config.precision != "fp32":
        return None
    kernels = training_kernels(config.kernels)
    return None if kernels is None else ChannelsLast(model, kernels)


def _layers(chain: Chain) -> Iterator[nn.Module]:
    """Yield the layers of ``chain`` and of the blocks in it."""
    for module in chain:
        if isinstance(module, (EncoderBlock, DecoderBlock)):
            yield from _layers(module.block)
        else:
            yield module


def _ends(context: BatchContext, x: Tensor) -> Tensor:
    """Return how many positions of each item of ``x``, Tensor[B x T x C], are its own."""
    batch, length = x.shape[:2]
    if context.lengths is None:
        return torch.full((batch,), length)
    return (context.lengths // (context.samples // length)).clamp(max=length)
