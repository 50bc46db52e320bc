"""The named terms of the training loss; their weights live in the configuration.

A term's name is its weight's key without ``_weight``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snac_core.model import Reconstruction
from snac_core.quality import mel_filterbank
from trainer.config import TrainConfig

TERMS = ("l1", "stft", "mel", "commitment", "codebook")
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
        weights = {name: float(getattr(config, f"{name}_weight")) for name in TERMS}
        if not config.quantizer_trains:
            weights["commitment"] = weights["codebook"] = 0.0
        self.weights = {name: weight for name, weight in weights.items() if weight}
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
        terms = {name: self._term(name, out, audio, target, own) for name in self.weights}
        weighted = [weight * terms[name] for name, weight in self.weights.items()]
        terms["loss"] = torch.stack(weighted).sum()
        return terms

    def _term(
        self, name: str, out: Reconstruction, audio: Tensor, target: Tensor, own: Tensor
    ) -> Tensor:
        if name == "l1":
            return masked_mean((audio - target).abs(), own)
        if name == "stft":
            return self._stft(audio, target, own)
        if name == "mel":
            return self._mel(audio, target, own)
        # Which of the two is drawn to the other: van den Oord et al., arXiv:1711.00937.
        parts = []
        for level in out.levels:
            latents, entries = level.projected, level.entries
            if name == "commitment":
                entries = entries.detach()
            else:
                latents = latents.detach()
            samples = own.shape[-1] // latents.shape[-1]
            keep = before_end(own, latents.shape[-1], step=samples, first=samples / 2)
            parts.append(masked_mean((latents - entries).square(), keep))
        return torch.stack(parts).sum() if parts else audio.new_zeros(())

    def _stft(self, audio: Tensor, target: Tensor, own: Tensor) -> Tensor:
        """Mean absolute difference of magnitudes, averaged over the FFT sizes."""
        hann = self.config.stft_window == "hann"
        parts = []
        for n_fft in self.config.n_ffts:
            made, wanted = (magnitude(x, n_fft, hann) for x in (audio, target))
            parts.append(self._distance(made, wanted, n_fft, own))
        return torch.stack(parts).mean()

    def _mel(self, audio: Tensor, target: Tensor, own: Tensor) -> Tensor:
        """Mean absolute difference of natural-log mel spectra, averaged over the FFT sizes."""
        parts = []
        for n_fft in self.config.mel_n_ffts:
            filters = self.get_buffer(f"mel_{n_fft}")
            made, wanted = (
                (filters @ magnitude(x, n_fft, hann=True)).clamp(min=LOG_FLOOR).log()
                for x in (audio, target)
            )
            parts.append(self._distance(made, wanted, n_fft, own))
        return torch.stack(parts).mean()

    def _distance(self, made: Tensor, wanted: Tensor, n_fft: int, own: Tensor) -> Tensor:
        """Mean absolute difference over the frames that each segment has without its padding."""
        keep = before_end(own, made.shape[-1], step=n_fft // 4)
        return masked_mean((made - wanted).abs(), keep)


def magnitude(audio: Tensor, n_fft: int, hann: bool) -> Tensor:
    """Return the STFT magnitude, Tensor[B x n_fft/2+1 x frames], of ``audio``, Tensor[B x 1 x T].

    Hop a quarter of the FFT; frames centred, with zeros beyond the ends; window rectangular
    unless ``hann``.
    """
    window = torch.hann_window if hann else torch.ones
    spectrum = torch.stft(
        audio.squeeze(1),
        n_fft,
        hop_length=n_fft // 4,
        window=window(n_fft, device=audio.device),
        pad_mode="constant",
        return_complex=True,
    )
    # The root of a zero has no finite slope.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()


def before_end(own: Tensor, count: int, step: int, first: float = 0.0) -> Tensor:
    """Return Tensor[B x 1 x count]: 1 where a position does not lie past its segment's end.

    Parameters
    ----------
    own
        Tensor[B x 1 x T], 1 up to each segment's end.
    count, step, first
        How many positions there are, how many samples apart, and where the first one is.
    """
    positions = first + step * torch.arange(count, device=own.device)
    return (positions <= own.sum(dim=-1, keepdim=True)).to(own.dtype)


def masked_mean(values: Tensor, keep: Tensor) -> Tensor:
    """Return the mean of ``values``, Tensor[B x C x T], where ``keep``, Tensor[B x 1 x T], is 1."""
    return (values * keep).sum() / (keep.sum() * values.shape[1]).clamp(min=1.0)
