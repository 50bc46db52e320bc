"""A decoder's first layer, fitted to a latent that has changed.

When encoder and quantizer were trained without it, a decoder gets a latent that it does not know.
What its first layer computed from the old latent is, for the most part, a linear function of the
new one, and least squares finds that function without a step of training.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext

RIDGE = 1e-3
"""Of the latent's mean square: keeps the weights of channels that hardly vary small."""


@torch.no_grad()
def fit_decoder_input(model: SNAC, before: SNAC, batches: Iterable[Tensor]) -> float:
    """Fit the first layer of ``model``'s decoder to the output of that of ``before``.

    Parameters
    ----------
    model
        Whose decoder is that of ``before``; its first layer is changed in place.
    before
        The model with the latent that the decoder knows.
    batches
        Tensors[B x 1 x T] of whole frames of speech, with more latents than channels in all.

    Returns
    -------
    The share of the first layer's variance that the fit explains, at most 1.
    """
    found, wanted = [], []
    for audio in batches:
        latents = _quantized(model, audio)
        found.append(latents.transpose(1, 2).flatten(0, 1))
        wanted.append(_first(before, _quantized(before, audio)).transpose(1, 2).flatten(0, 1))
    points, targets = torch.cat(found).double(), torch.cat(wanted).double()
    mean, aim = points.mean(0), targets.mean(0)
    centred, centred_targets = points - mean, targets - aim
    ridge = RIDGE * len(points) * centred.square().mean()
    gram = centred.T @ centred + ridge * torch.eye(len(mean), device=points.device)
    weight = torch.linalg.solve(gram, centred.T @ centred_targets)
    left = (centred_targets - centred @ weight).square().mean()
    _set_first(model, weight.T.float(), (aim - mean @ weight).float())
    return 1.0 - float(left / centred_targets.square().mean())


def _quantized(model: SNAC, audio: Tensor) -> Tensor:
    latent = model.encoder(audio, BatchContext(audio.shape[-1]))
    return cast(Tensor, model.quantizer(latent)[0])


def _first(model: SNAC, latent: Tensor) -> Tensor:
    """Return what the decoder's first layer, or first two if depthwise, makes of ``latent``."""
    wide = cast(nn.Conv1d, model.decoder.model[0])
    made: Tensor = wide(latent)
    if wide.groups > 1:
        made = cast(nn.Conv1d, model.decoder.model[1])(made)
    return made


def _set_first(model: SNAC, weight: Tensor, bias: Tensor) -> None:
    """Make the first layer ``weight``, [D x C], of each latent alone, and ``bias``, [D]."""
    wide = cast(nn.Conv1d, model.decoder.model[0])
    middle = wide.kernel_size[0] // 2
    kernel = torch.zeros_like(wide.weight)
    assert wide.bias is not None
    if wide.groups == 1:
        kernel[..., middle] = weight
        wide.weight = kernel
        wide.bias.copy_(bias)
        return
    kernel[..., middle] = 1.0
    wide.weight = kernel
    wide.bias.zero_()
    narrow = cast(nn.Conv1d, model.decoder.model[1])
    assert narrow.bias is not None
    narrow.weight = weight[..., None]
    narrow.bias.copy_(bias)
