"""A scale for every layer of a model that starts from random weights.

Speech is quiet and PyTorch's own initialisation shrinks it further with every layer; Snake
bends nothing at such levels, so that the network would start, and long stay, almost linear.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.layers import NoiseBlock, ResidualUnit
from trainer.model.mel_target import MelTarget

Convolution = nn.Conv1d | nn.ConvTranspose1d

BRANCH_STD = 0.3
"""Of what a residual unit adds to its input: three of them hardly change its scale."""
OUTPUT_STD = 0.1
"""Of the first output, as of speech: a saturated tanh has no slope to learn from."""
QUIETEST = 0.1
"""Deviation of a channel, beside that of its layer's loudest, from which on it is made louder."""
NOISE_GAIN = 0.3
"""Of what the decoder's noise starts with; more would drown what it is to learn."""


@torch.no_grad()
def scale_to(model: SNAC, audio: Tensor, mel_target: MelTarget) -> None:
    """Set gains and biases so that every convolution's output has mean 0 and a known deviation.

    1, unless a constant above says otherwise. This is the data-dependent initialisation that
    comes with weight normalisation (Salimans and Kingma, arXiv:1602.07868, section 3): one
    pass, each layer set in turn, on what the layers before it now make.

    Parameters
    ----------
    model
        Fresh from random weights; changed in place. Its quantizer is left alone.
    audio
        Tensor[B x 1 x T] of whole frames of speech; a few seconds do.
    mel_target
        Fitted along with the quantizer: makes what the decoder is fed first.
    """
    for module in model.modules():
        if isinstance(module, NoiseBlock):
            _gain(module.linear).mul_(NOISE_GAIN)
    stds = {id(unit.block[-1]): BRANCH_STD for unit in _units(model)}
    stds[id(model.decoder.model[-2])] = OUTPUT_STD

    def normalise(layer: Convolution, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        std, mean = torch.std_mean(out, dim=(0, 2))
        # What is silent beside the loudest channel stays so: the gradient of what feeds it
        # grows as the gain does.
        scale = stds.get(id(layer), 1.0) / std.clamp(min=QUIETEST * float(std.max()))
        if isinstance(layer, nn.ConvTranspose1d):
            # Its gains belong to input channels, so that the outputs share one scale.
            scale = scale.mean().expand_as(scale)
            _gain(layer).mul_(scale[0])
        else:
            _gain(layer).mul_(scale[:, None, None])
        assert layer.bias is not None
        layer.bias.copy_((layer.bias - mean) * scale)
        return (out - mean[:, None]) * scale[:, None]

    hooks = [layer.register_forward_hook(normalise) for layer in _convolutions(model)]
    try:
        context = BatchContext(audio.shape[-1], noise="random")
        model.encoder(audio, context)
        model.decoder(model.quantizer(mel_target(audio))[0], context)
    finally:
        for hook in hooks:
            hook.remove()


def _convolutions(model: SNAC) -> Iterator[Convolution]:
    """Every convolution of encoder and decoder that has a bias, which the noise's do not."""
    for part in (model.encoder, model.decoder):
        for module in part.modules():
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) and module.bias is not None:
                yield module


def _units(model: SNAC) -> Iterator[ResidualUnit]:
    return (module for module in model.modules() if isinstance(module, ResidualUnit))


def _gain(layer: nn.Module) -> Tensor:
    gain = layer.parametrizations.weight.original0  # type: ignore[union-attr]
    assert isinstance(gain, Tensor)
    return gain
