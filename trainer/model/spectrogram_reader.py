"""A small network that reads log-mel spectra from a quantized latent.

A decoder makes samples, which is nine tenths of the cost of a training step. What tokens must
hold for speech to be understood is mostly its short-time spectrum, and that can be read from the
latent at its own low rate. So encoder and quantizer can learn with this network in the decoder's
place, on many times as much audio in the same time.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_core.config import SnacConfig
from snac_core.quality import mel_filterbank

LOG_FLOOR = 1e-5
"""Smallest magnitude, as in the training loss."""
RESOLUTIONS = ((1024, 2, 80), (512, 4, 40))
"""Samples in a Hann window, spectra per latent, and mel bands of each target."""
MEAN, DEVIATION = -3.0, 2.2
"""About those of natural-log mel magnitudes of speech."""
CHANNELS = 320


class SpectrogramReader(nn.Module):
    """Reads the log-mel spectra of `RESOLUTIONS` from a latent, several spectra per latent.

    Parameters
    ----------
    config
        Of the model, for its latent's channels, its hop and its sample rate.
    """

    def __init__(self, config: SnacConfig) -> None:
        super().__init__()
        latent = config.latent_channels
        self.targets = nn.ModuleList(
            LogMel(config, n_fft, count, bands) for n_fft, count, bands in RESOLUTIONS
        )
        self.enter = nn.Sequential(_depthwise(latent, 1), nn.Conv1d(latent, CHANNELS, 1))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                _depthwise(CHANNELS, dilation),
                nn.Conv1d(CHANNELS, CHANNELS, 1),
                nn.GELU(),
                nn.Conv1d(CHANNELS, CHANNELS, 1),
            )
            for dilation in (1, 3, 1)
        )
        self.leave = nn.Conv1d(CHANNELS, sum(count * bands for _, count, bands in RESOLUTIONS), 1)

    def forward(self, latent: Tensor) -> Tensor:
        """Return what is read from ``latent``, Tensor[B x C x T]; laid out as `target`."""
        x = self.enter(latent)
        for block in self.blocks:
            x = x + block(x)
        return cast(Tensor, self.leave(x))

    def target(self, audio: Tensor) -> Tensor:
        """Return the spectra of ``audio``, Tensor[B x 1 x T*hop], as Tensor[B x F x T].

        Natural logarithms, less `MEAN`, over `DEVIATION`.
        """
        return (torch.cat([each(audio) for each in self.targets], dim=1) - MEAN) / DEVIATION

    def distance(self, latent: Tensor, target: Tensor, own: Tensor) -> Tensor:
        """Return the mean absolute difference in natural-log units, where ``own`` is 1.

        Parameters
        ----------
        latent, target
            As above.
        own
            Tensor[B x 1 x T]: 1 for the latents of a recording, 0 for those of its padding.
        """
        difference = (self(latent) - target).abs().mean(dim=1, keepdim=True) * DEVIATION
        total: Tensor = (difference * own).sum() / own.sum().clamp(min=1)
        return total


class LogMel(nn.Module):
    """Log-mel spectra, ``count`` to each latent, at even distances."""

    filters: Tensor
    window: Tensor

    def __init__(self, config: SnacConfig, n_fft: int, count: int, bands: int) -> None:
        super().__init__()
        self.n_fft, self.count, self.hop = n_fft, count, config.hop // count
        filters = torch.from_numpy(mel_filterbank(config.sampling_rate, n_fft, bands))
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Return Tensor[B x count*bands x T] for ``audio``, Tensor[B x 1 x T*hop]."""
        before = max(0, self.n_fft - self.hop) // 2
        padded = F.pad(audio[:, 0], (before, max(0, self.n_fft - self.hop) - before))
        spectrum = torch.stft(
            padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True
        )
        mel = (self.filters @ spectrum.abs()).clamp(min=LOG_FLOOR).log()
        batch, bands, frames = mel.shape
        parts: Tensor = mel.reshape(batch, bands, frames // self.count, self.count)
        return parts.transpose(2, 3).reshape(batch, bands * self.count, frames // self.count)


def _depthwise(channels: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(
        channels, channels, 7, padding=3 * dilation, dilation=dilation, groups=channels
    )
