"""Log-mel spectra in step with a model's latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_core.config import SnacConfig
from snac_core.quality import mel_filterbank


class LogMel(nn.Module):
    """Natural-log mel magnitudes of Hann windows, ``count`` per latent at even distances.

    Parameters
    ----------
    config
        Of the model, for its hop and its sample rate.
    n_fft
        Samples in a window; the windows of a latent lie around its samples.
    bands
        Mel bands.
    floor
        Smallest magnitude.
    count
        Spectra per latent; divides the hop.
    """

    filters: Tensor
    window: Tensor

    def __init__(
        self, config: SnacConfig, n_fft: int, bands: int, floor: float, count: int = 1
    ) -> None:
        super().__init__()
        self.n_fft, self.floor, self.count = n_fft, floor, count
        self.hop = config.hop // count
        filters = torch.from_numpy(mel_filterbank(config.sampling_rate, n_fft, bands))
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Return Tensor[B x count*bands x T] for ``audio``, Tensor[B x 1 x T*hop]."""
        around = self.n_fft - self.hop
        padded = F.pad(audio[:, 0], (around // 2, around - around // 2))
        spectrum = torch.stft(
            padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True
        )
        mel = (self.filters @ spectrum.abs()).clamp(min=self.floor).log()
        batch, bands, spectra = mel.shape
        each: Tensor = mel.view(batch, bands, spectra // self.count, self.count)
        return each.permute(0, 3, 1, 2).flatten(1, 2)
