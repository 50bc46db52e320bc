"""The named terms of the training loss; their weights live in the configuration.

A term's name is its weight's key without ``_weight``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_core.model import Reconstruction
from snac_core.quality import mel_filterbank
from trainer.config import TrainConfig

LOG_FLOOR = 1e-5


class Losses(nn.Module):
    """Every term that the configuration gives weight, over one batch.

    Parameters
    ----------
    config
        Says which terms count, and how much.
    sample_rate
        Hz.
    """

    def __init__(self, config: TrainConfig, sample_rate: int) -> None:
        super().__init__()
        self.config = config
        self.weights = {"l1": config.l1_weight, "stft": config.stft_weight}
        self.weights["mel"] = config.mel_weight
        if config.quantizer_trains:
            self.weights["commitment"] = config.commitment_weight
            self.weights["codebook"] = config.codebook_weight
        self.weights = {name: weight for name, weight in self.weights.items() if weight}
        for n_fft, bins in zip(config.mel_n_ffts, config.mel_bins, strict=True):
            filters = torch.from_numpy(mel_filterbank(sample_rate, n_fft, bins))
            self.register_buffer(f"mel_{n_fft}", filters, persistent=False)

    def forward(self, out: Reconstruction, target: Tensor, own: Tensor) -> dict[str, Tensor]:
        """Return each weighted term's value, unweighted, and their weighted sum as ``loss``.

        Parameters
        ----------
        out
            What the model made of ``target``.
        target
            Tensor[B x 1 x T].
        own
            Tensor[B x 1 x T], 1 where a segment is recording and 0 where it is padding;
            padding does not count.
        """
        audio = out.audio.float() * own
        target = target * own
        terms: dict[str, Tensor] = {}
        for name in self.weights:
            if name == "l1":
                terms[name] = (audio - target).abs().sum() / own.sum().clamp(min=1.0)
            elif name == "stft":
                terms[name] = self._stft(audio, target)
            elif name == "mel":
                terms[name] = self._mel(audio, target)
            elif name == "commitment":
                terms[name] = torch.stack(
                    [F.mse_loss(level.projected, level.entries.detach()) for level in out.levels]
                ).sum()
            elif name == "codebook":
                terms[name] = torch.stack(
                    [F.mse_loss(level.entries, level.projected.detach()) for level in out.levels]
                ).sum()
        terms["loss"] = torch.stack(
            [weight * terms[name] for name, weight in self.weights.items()]
        ).sum()
        return terms

    def _stft(self, audio: Tensor, target: Tensor) -> Tensor:
        """Mean absolute difference of magnitudes, averaged over the FFT sizes."""
        hann = self.config.stft_window == "hann"
        return torch.stack(
            [
                F.l1_loss(magnitude(audio, n_fft, hann), magnitude(target, n_fft, hann))
                for n_fft in self.config.n_ffts
            ]
        ).mean()

    def _mel(self, audio: Tensor, target: Tensor) -> Tensor:
        """Mean absolute difference of natural-log mel spectra, averaged over the FFT sizes."""
        parts = []
        for n_fft in self.config.mel_n_ffts:
            filters = self.get_buffer(f"mel_{n_fft}")
            logs = [
                (filters @ magnitude(x, n_fft, hann=True)).clamp(min=LOG_FLOOR).log()
                for x in (audio, target)
            ]
            parts.append(F.l1_loss(*logs))
        return torch.stack(parts).mean()


def magnitude(audio: Tensor, n_fft: int, hann: bool) -> Tensor:
    """Return the STFT magnitude, Tensor[B x n_fft/2+1 x frames], of ``audio``, Tensor[B x 1 x T].

    Hop a quarter of the FFT; window rectangular unless ``hann``.
    """
    window = torch.hann_window(n_fft, device=audio.device) if hann else None
    window = torch.ones(n_fft, device=audio.device) if window is None else window
    spectrum = torch.stft(
        audio.squeeze(1),
        n_fft,
        hop_length=n_fft // 4,
        window=window,
        pad_mode="constant",
        return_complex=True,
    )
    # The root of a zero has no finite slope.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()
