"""A first latent for a model from random weights: log-mel features, and codebooks for them.

An autoencoder that starts from nothing learns loudness, and little else for very long: while
its latent says nothing of timbre, its decoder cannot learn to make any. So its quantizer is
fitted to features of speech; for the first steps its decoder is fed these, quantized, and its
encoder learns to make them. Then the decoder gets what the encoder makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_core.config import SnacConfig
from snac_core.model.quantizer import ResidualVectorQuantize, VectorQuantize
from trainer.errors import TrainerError
from trainer.model.log_mel import LogMel

BINS = 80
N_FFT = 1024
FLOOR = 1e-3
LEFT_OVER = 0.1
"""Weight of the channels that hold no feature, which are to stay at zero."""
CLUSTERED = 60_000
"""Points that k-means looks at; the entries of four thousand clusters need no more."""
ROUNDS = 7
"""Of k-means."""


class MelTarget(nn.Module):
    """Features of speech in the shape of a latent.

    The first channels, at most 80, are log-mel bins of a Hann window of 1024 samples around
    each latent's middle, each less its mean, all over one deviation; the others are zero.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: SnacConfig) -> None:
        super().__init__()
        self.channels = config.latent_channels
        self.bins = min(BINS, self.channels)
        self.log_mel = LogMel(config, N_FFT, self.bins, FLOOR)
        self.register_buffer("mean", torch.zeros(self.bins, 1))
        self.register_buffer("std", torch.ones(()))

    def forward(self, audio: Tensor) -> Tensor:
        """Return Tensor[B x C x T/hop] for ``audio``, Tensor[B x 1 x T] of whole frames."""
        features = (self.log_mel(audio) - self.mean) / self.std
        return F.pad(features, (0, 0, 0, self.channels - self.bins))

    def distance(self, latent: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error of ``latent``, Tensor[B x C x T/hop], per feature."""
        squares = (latent - target).square()
        rest = squares[:, self.bins :]
        return squares[:, : self.bins].mean() + LEFT_OVER * rest.sum() / max(1, rest.numel())


@torch.no_grad()
def fit(
    mel_target: MelTarget, quantizer: ResidualVectorQuantize, batches: Iterable[Tensor]
) -> None:
    """Measure the features' mean and deviation, and fit ``quantizer`` to them.

    Level by level, each to what the coarser ones left: its projections are the principal
    components of the pooled residual, its entries the centres of their clusters.

    Parameters
    ----------
    mel_target, quantizer
        Of one model; changed in place.
    batches
        Tensors[B x 1 x T] of whole frames of speech. The coarsest level wants ten latents
        for each of its entries: an hour of audio, for 4096.

    Raises
    ------
    TrainerError
        When there are fewer latents than entries.
    """
    features = torch.cat([mel_target.log_mel(audio) for audio in batches])
    mel_target.mean.copy_(features.mean(dim=(0, 2))[:, None])
    mel_target.std.copy_((features - mel_target.mean).square().mean().sqrt())
    features = (features - mel_target.mean) / mel_target.std
    residual = F.pad(features, (0, 0, 0, mel_target.channels - mel_target.bins))
    # Of the CPU, so that every device draws the same.
    random = torch.Generator().manual_seed(0)
    for module in quantizer.quantizers:
        level = cast(VectorQuantize, module)
        pooled = F.avg_pool1d(residual, level.stride, level.stride)
        _project_on_components(level, pooled.transpose(1, 2).flatten(0, 1), random)
        points = level.in_proj(pooled).transpose(1, 2).flatten(0, 1)
        level.codebook.weight.copy_(_clusters(points, len(level.codebook.weight), random))
        # Part by part: distances to every entry are many times as large as what they are of.
        residual = torch.cat([part - level(part)[0] for part in torch.split(residual, 64)])


def _project_on_components(level: VectorQuantize, points: Tensor, random: torch.Generator) -> None:
    """Set the projections of ``level`` to the principal components of ``points``, [N x C].

    Entries are looked up by direction alone, so that the last dimension is a constant, which
    makes a direction of every point of the others.
    """
    kept = level.codebook.weight.shape[1] - 1
    mean = points.mean(dim=0)
    variances, vectors = torch.linalg.eigh(torch.cov((points - mean).T))
    components, scale = vectors[:, -kept:].flip(1), variances[-1].sqrt()
    constant = (((points - mean) @ components) / scale).square().sum(dim=1).mean().sqrt()
    # Weight normalisation cannot hold a row of zeros: tiny ones stand for them.
    into = 1e-4 * torch.randn(kept + 1, len(mean), generator=random).to(points.device)
    into[:kept] = components.T / scale
    back = 1e-5 * torch.randn(len(mean), kept + 1, generator=random).to(points.device)
    back[:, :kept] += components * scale
    level.in_proj.weight = into[..., None]
    level.out_proj.weight = back[..., None]
    assert level.in_proj.bias is not None
    assert level.out_proj.bias is not None
    level.in_proj.bias.copy_(torch.cat([-(mean @ components) / scale, constant[None]]))
    level.out_proj.bias.copy_(mean)


def _clusters(points: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Return the centres, [count x D], of spherical k-means over ``points``, [N x D]."""
    if len(points) < count:
        raise TrainerError(
            f"{len(points)} latents are too few for a codebook of {count} entries: give "
            "training data of more length"
        )
    chosen = torch.randperm(len(points), generator=random)[:CLUSTERED]
    points = points[chosen.to(points.device)]
    centres = points[:count].clone()
    directions = F.normalize(points)
    for _ in range(ROUNDS):
        book = F.normalize(centres).T
        nearest = torch.cat([(part @ book).argmax(dim=1) for part in torch.split(directions, 8192)])
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        chosen = torch.randint(len(points), (count,), generator=random)
        elsewhere = points[chosen.to(points.device)]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), elsewhere)
    return centres
