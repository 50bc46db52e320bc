"""Residual vector quantization in which coarse levels cover more time than fine ones."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from snac_core.config import SnacConfig
from snac_core.model.layers import Conv1d


class Level(NamedTuple):
    """What one level made of a latent."""

    codes: Tensor
    """Tensor[B x T/stride] of int64."""
    projected: Tensor
    """Tensor[B x D x T/stride]: the latent in the space where entries are looked up."""
    entries: Tensor
    """Tensor[B x D x T/stride]: the codebook entries that were nearest."""


ROWS = 16
"""Least rows of a product: for fewer, the library adds in other orders."""


def _pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution of kernel size 1 to ``x``, Tensor[B x C x T].

    It is computed as a matrix product, which on a CPU gives the same bits with any number of
    threads, in any batch and at any length. A convolution by oneDNN does not, and a code would
    change now and then.
    """
    weight, bias = cast(Tensor, conv.weight)[..., 0], cast(Tensor, conv.bias)
    rows = x.transpose(1, 2)
    length = rows.shape[1]
    whole = F.pad(rows, (0, 0, 0, max(0, ROWS - length))).contiguous()
    return F.linear(whole, weight, bias)[:, :length].transpose(1, 2)


class VectorQuantize(nn.Module):
    """One level: pool, project, take the nearest codebook entry, project back, repeat."""

    directions: Tensor | None
    """Tensor[K x D]: the entries at unit length, once they are `folded`; not in state dicts."""
    squares: Tensor | None
    """Tensor[K]: the squared lengths of these."""

    def __init__(self, config: SnacConfig, stride: int) -> None:
        super().__init__()
        self.stride = stride
        latent, dim = config.latent_channels, config.codebook_dim
        self.in_proj = weight_norm(Conv1d(latent, dim, kernel_size=1))
        self.out_proj = weight_norm(Conv1d(dim, latent, kernel_size=1))
        self.codebook = nn.Embedding(config.codebook_size, dim)
        self.register_buffer("directions", None, persistent=False)
        self.register_buffer("squares", None, persistent=False)

    def fold(self) -> None:
        """Compute what only the codebook decides once, for inference: it may not change then."""
        self.directions, self.squares = self._looked_up()

    def forward(self, latent: Tensor) -> tuple[Tensor, Level]:
        """Quantize ``latent``, Tensor[B x C x T], and return its approximation and the level.

        Gradients pass straight through the look-up to the projection.
        """
        projected = self._projected(latent)
        codes = self.nearest(projected)
        entries = self.codebook(codes).transpose(1, 2)
        through = projected + (entries - projected).detach()
        return self._expand(through), Level(codes, projected, entries)

    def encode(self, latent: Tensor) -> Tensor:
        """Return int64 codes, Tensor[B x T/stride], of ``latent``, Tensor[B x C x T]."""
        return self.nearest(self._projected(latent))

    def nearest(self, projected: Tensor) -> Tensor:
        """Return int64 codes Tensor[B x T] of ``projected``, Tensor[B x D x T].

        Nearest by Euclidean distance between unit vectors (ViT-VQGAN, arXiv:2110.04627).
        """
        batch = projected.shape[0]
        points = F.normalize(projected.transpose(1, 2).reshape(-1, projected.shape[1]))
        if self.directions is None or self.squares is None:
            book, squares = self._looked_up()
        else:
            book, squares = self.directions, self.squares
        # In place: fresh memory for thousands of entries a position costs more than the sums.
        distance = (2 * points @ book.t()).neg_()
        distance += points.pow(2).sum(1, keepdim=True)
        distance += squares
        return distance.min(1)[1].reshape(batch, -1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the latent, Tensor[B x C x T], of ``codes``, Tensor[B x T/stride]."""
        return self._expand(self.codebook(codes).transpose(1, 2))

    def _projected(self, latent: Tensor) -> Tensor:
        if self.stride > 1:
            latent = F.avg_pool1d(latent, self.stride, self.stride)
        return _pointwise(self.in_proj, latent)

    def _looked_up(self) -> tuple[Tensor, Tensor]:
        book = F.normalize(self.codebook.weight)
        return book, book.pow(2).sum(1)

    def _expand(self, entries: Tensor) -> Tensor:
        latent = _pointwise(self.out_proj, entries)
        return latent.repeat_interleave(self.stride, dim=-1) if self.stride > 1 else latent


class ResidualVectorQuantize(nn.Module):
    """Levels that each quantize what the coarser ones left over."""

    def __init__(self, config: SnacConfig) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(
            VectorQuantize(config, stride) for stride in config.vq_strides
        )

    def forward(self, latent: Tensor) -> tuple[Tensor, list[Level]]:
        """Quantize ``latent``, Tensor[B x C x T]; return its approximation and the levels."""
        total, residual, levels = torch.zeros_like(latent), latent, []
        for quantizer in self.quantizers:
            part, level = quantizer(residual)
            total, residual = total + part, residual - part
            levels.append(level)
        return total, levels

    def encode(self, latent: Tensor) -> list[Tensor]:
        """Return the codes that `forward` gives, one int64 Tensor[B x T/stride] per level."""
        residual, codes = latent, []
        *coarse, finest = self.quantizers
        for quantizer in coarse:
            part, level = quantizer(residual)
            residual = residual - part
            codes.append(level.codes)
        return [*codes, cast(VectorQuantize, finest).encode(residual)]

    def decode(self, codes: list[Tensor]) -> Tensor:
        """Return the latent, Tensor[B x C x T], of one int64 Tensor[B x T/stride] per level."""
        parts = [
            quantizer.decode(level)  # type: ignore[operator]
            for quantizer, level in zip(self.quantizers, codes, strict=True)
        ]
        total: Tensor = parts[0]
        for part in parts[1:]:
            total = total + part
        return total
