"""Convolutional encoder and decoder of SNAC (Siuzdak et al., arXiv:2410.14411).

Parameter names follow the published checkpoints, so that those load unchanged.
Shapes are ``B x C x T``; every module here takes the `BatchContext` of its batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from snac_core.config import SnacConfig
from snac_core.model.attention import LocalMHA
from snac_core.model.batch_context import BatchContext


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` that is written out as shifted products where a compiler can fuse them."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, Tensor[B x C x T]."""
        depthwise = self.groups == self.in_channels == self.out_channels > 1
        if depthwise and torch.compiler.is_compiling():
            # Multiply-adds that fuse with their neighbours, where a library call cannot.
            kernel, dilation, padding = self.kernel_size[0], self.dilation[0], int(self.padding[0])
            length = x.shape[-1] + 2 * padding - dilation * (kernel - 1)
            padded, weight = F.pad(x, (padding, padding)), self.weight
            out = padded[..., :length] * weight[:, 0, 0, None]
            for tap in range(1, kernel):
                shifted = padded[..., tap * dilation : tap * dilation + length]
                out = out + shifted * weight[:, 0, tap, None]
            return out if self.bias is None else out + self.bias[:, None]
        return super().forward(x)


class Snake1d(nn.Module):
    """Periodic activation ``x + sin(alpha x)^2 / alpha`` (Ziyin et al., arXiv:2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``, Tensor[B x C x T]."""
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)


class Chain(nn.Sequential):
    """`nn.Sequential` that hands the batch's `BatchContext` along.

    This is the one place that keeps items of a batch from reading past their own end:
    whatever mixes time gets an input that is zero there.
    """

    def forward(self, x: Tensor, context: BatchContext) -> Tensor:  # type: ignore[override]
        """Apply each module in turn to ``x``, Tensor[B x C x T]."""
        for module in self:
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                x = module(context.mask(x) if module.kernel_size[0] > 1 else x)
            elif isinstance(module, (ResidualUnit, EncoderBlock, DecoderBlock, NoiseBlock)):
                x = module(x, context)
            else:
                x = module(x)
        return x


class ResidualUnit(nn.Module):
    """Snake, wide convolution, Snake, point-wise convolution, around a skip connection."""

    def __init__(self, dim: int, dilation: int, depthwise: bool) -> None:
        super().__init__()
        self.block = Chain(
            Snake1d(dim),
            weight_norm(
                Conv1d(
                    dim,
                    dim,
                    kernel_size=7,
                    dilation=dilation,
                    padding=3 * dilation,
                    groups=dim if depthwise else 1,
                )
            ),
            Snake1d(dim),
            weight_norm(Conv1d(dim, dim, kernel_size=1)),
        )

    def forward(self, x: Tensor, context: BatchContext) -> Tensor:
        """Return Tensor[B x C x T] for ``x`` of the same shape."""
        return torch.add(x, self.block(x, context))


class EncoderBlock(nn.Module):
    """Three residual units, then a strided convolution that doubles the channels."""

    def __init__(self, dim: int, stride: int, depthwise: bool) -> None:
        super().__init__()
        self.block = Chain(
            *(ResidualUnit(dim, dilation, depthwise) for dilation in (1, 3, 9)),
            Snake1d(dim),
            weight_norm(
                Conv1d(dim, 2 * dim, 2 * stride, stride=stride, padding=math.ceil(stride / 2))
            ),
        )

    def forward(self, x: Tensor, context: BatchContext) -> Tensor:
        """Return Tensor[B x 2C x T/stride] for ``x``, Tensor[B x C x T]."""
        return self.block(x, context)  # type: ignore[no-any-return]


class NoiseBlock(nn.Module):
    """Adds noise that is the same in all channels, scaled by a projection of the input."""

    def __init__(self, dim: int, index: int) -> None:
        super().__init__()
        self.index = index
        self.linear = weight_norm(Conv1d(dim, dim, kernel_size=1, bias=False))

    def forward(self, x: Tensor, context: BatchContext) -> Tensor:
        """Return ``x``, Tensor[B x C x T], with noise; unchanged when noise is off."""
        noise = context.normal(x, self.index)
        return x if noise is None else x + noise * self.linear(x)


class DecoderBlock(nn.Module):
    """Transposed convolution that halves the channels, noise, three residual units."""

    def __init__(self, dim: int, stride: int, index: int, noise: bool, depthwise: bool) -> None:
        super().__init__()
        up = nn.ConvTranspose1d(
            dim,
            dim // 2,
            kernel_size=2 * stride,
            stride=stride,
            padding=math.ceil(stride / 2),
            output_padding=stride % 2,
        )
        self.block = Chain(
            Snake1d(dim),
            weight_norm(up),
            *([NoiseBlock(dim // 2, index)] if noise else []),
            *(ResidualUnit(dim // 2, dilation, depthwise) for dilation in (1, 3, 9)),
        )

    def forward(self, x: Tensor, context: BatchContext) -> Tensor:
        """Return Tensor[B x C/2 x T*stride] for ``x``, Tensor[B x C x T]."""
        return self.block(x, context)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Waveform to latent."""

    def __init__(self, config: SnacConfig) -> None:
        super().__init__()
        dims = [config.encoder_dim * 2**i for i in range(len(config.encoder_rates))]
        latent, window = config.latent_channels, config.attn_window_size
        self.block = Chain(
            weight_norm(Conv1d(1, config.encoder_dim, kernel_size=7, padding=3)),
            *(
                EncoderBlock(dim, stride, config.depthwise)
                for dim, stride in zip(dims, config.encoder_rates, strict=True)
            ),
            *([] if window is None else [LocalMHA(latent, window)]),
            weight_norm(
                Conv1d(
                    latent,
                    latent,
                    kernel_size=7,
                    padding=3,
                    groups=latent if config.depthwise else 1,
                )
            ),
        )

    def forward(self, audio: Tensor, context: BatchContext) -> Tensor:
        """Return the latent, Tensor[B x latent x T/hop], of ``audio``, Tensor[B x 1 x T]."""
        return self.block(audio, context)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Latent to waveform."""

    def __init__(self, config: SnacConfig) -> None:
        super().__init__()
        latent, dim, window = config.latent_channels, config.decoder_dim, config.attn_window_size
        dims = [dim // 2**i for i in range(len(config.decoder_rates) + 1)]
        wide = Conv1d(
            latent,
            latent if config.depthwise else dim,
            kernel_size=7,
            padding=3,
            groups=latent if config.depthwise else 1,
        )
        self.model = Chain(
            weight_norm(wide),
            *([weight_norm(Conv1d(latent, dim, kernel_size=1))] if config.depthwise else []),
            *([] if window is None else [LocalMHA(dim, window)]),
            *(
                DecoderBlock(dims[i], stride, i, config.noise, config.depthwise)
                for i, stride in enumerate(config.decoder_rates)
            ),
            Snake1d(dims[-1]),
            weight_norm(Conv1d(dims[-1], 1, kernel_size=7, padding=3)),
            nn.Tanh(),
        )

    def forward(self, latent: Tensor, context: BatchContext) -> Tensor:
        """Return audio, Tensor[B x 1 x T*hop], of ``latent``, Tensor[B x latent x T]."""
        return self.model(latent, context)  # type: ignore[no-any-return]
