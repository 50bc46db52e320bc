"""A small network that reads log-mel spectra from a quantized latent.

Most of the cost of a training step is the decoder, which makes samples. What tokens must hold for
speech to be understood is mostly its short-time spectrum, and a network can read that from the
latent at the latent's low rate. With this network in the decoder's place, encoder and quantizer
learn from several times as much audio in the same time.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from snac_core.config import SnacConfig
from trainer.model.log_mel import LogMel

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
            LogMel(config, n_fft, bands, LOG_FLOOR, count) for n_fft, count, bands in RESOLUTIONS
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


def _depthwise(channels: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(
        channels, channels, 7, padding=3 * dilation, dilation=dilation, groups=channels
    )
