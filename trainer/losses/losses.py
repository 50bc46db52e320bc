"""The named terms of the training loss; their weights live in the configuration.

Every term is a sum over a count, and what counts can be shared by several processes: see
``global_count`` of `Losses`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from snac_core.model import Reconstruction
from snac_core.quality import mel_filterbank
from trainer.config import TrainConfig
from trainer.errors import TrainerError

LOG_FLOOR = 1e-5

GlobalCount = Callable[[Tensor], Tensor]
"""Takes a process's counts, Tensor[N], and returns their means over all processes."""


class Term(NamedTuple):
    """What a name in the logs stands for."""

    weight: str | None
    """Configuration key of its weight; None where it is no part of the codec's loss."""
    what: str
    source: str
    """Where it is from."""


TERMS: dict[str, Term] = {
    "l1": Term("l1_weight", "mean absolute difference of samples", "the original recipe"),
    "stft": Term(
        "stft_weight",
        "mean absolute difference of STFT magnitudes, averaged over n_ffts",
        "the original recipe",
    ),
    "mel": Term(
        "mel_weight",
        "mean absolute difference of natural-log mel spectra, averaged over mel_n_ffts",
        "arXiv:2306.06546",
    ),
    "commitment": Term(
        "commitment_weight",
        "mean squared distance of latents from the entries they chose, summed over levels; "
        "moves the encoder",
        "arXiv:1711.00937",
    ),
    "codebook": Term("codebook_weight", "the same distance; moves the entries", "arXiv:1711.00937"),
    "guide": Term(
        "guide_weight",
        "mean squared distance of the encoder's latent from the features that a model from "
        "random weights starts with; only with guided_steps",
        "trainer/model/mel_target.py",
    ),
    "adversarial": Term(
        "adversarial_weight",
        "mean squared distance of the discriminators' scores from 1, a recording's",
        "arXiv:1611.04076",
    ),
    "feature": Term(
        "feature_weight",
        "mean absolute difference of the discriminators' layers, over the size that they have "
        "for the recording",
        "arXiv:2210.13438",
    ),
    "discriminator": Term(
        None,
        "what the discriminators minimise: squared distance of scores from 1 for recordings "
        "and from 0 for what the codec made",
        "arXiv:1611.04076",
    ),
}
"""Every named term of a step, in the order of the logs."""

ADVERSARIAL = ("adversarial", "feature")
"""The terms that discriminators give."""

ELSEWHERE = (*ADVERSARIAL, "guide")
"""The terms that `Losses` does not compute."""


class Part(NamedTuple):
    """A sum and what it is to be divided by; both scalars."""

    total: Tensor
    divisor: Tensor


def term_weights(config: TrainConfig) -> dict[str, float]:
    """Return the weight of each term that the configuration lets the codec learn from."""
    weights = {
        name: float(getattr(config, term.weight)) for name, term in TERMS.items() if term.weight
    }
    if not config.quantizer_trains:
        weights["codebook"] = 0.0
    if config.guided_steps or not config.token_space_changes:
        weights["commitment"] = 0.0
    if not config.guided_steps:
        weights["guide"] = 0.0
    return {name: weight for name, weight in weights.items() if weight}


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the sum of those ``terms`` that have a weight, times it."""
    return torch.stack([weights[name] * terms[name] for name in weights if name in terms]).sum()


class Losses(nn.Module):
    """Every term over one batch that the configuration gives weight and no discriminator gives.

    Parameters
    ----------
    config
        Says which terms count, and how much.
    sample_rate
        Hz.
    global_count
        Where a batch is divided over processes: returns the mean of the counts over them, as
        an all-reduce does. The mean of the processes' losses, and of their gradients, is then
        that of the whole batch, however much padding each has. Called once in a forward.
    """

    def __init__(
        self, config: TrainConfig, sample_rate: int, global_count: GlobalCount | None = None
    ) -> None:
        super().__init__()
        self.config, self.global_count = config, global_count
        self.reflect = config.stft_padding == "reflect"
        self.weights = {
            name: weight for name, weight in term_weights(config).items() if name not in ELSEWHERE
        }
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
            padding does not count, and a segment without any recording counts for nothing.
        """
        audio = out.audio.float() * own
        target = target * own
        parts = {name: self._parts(name, out, audio, target, own) for name in self.weights}
        means = ratios([part for those in parts.values() for part in those], self.global_count)
        terms: dict[str, Tensor] = {}
        for name, those in parts.items():
            values, means = means[: len(those)], means[len(those) :]
            # The levels of the quantizer add up; resolutions of a spectrum share one weight.
            share = 1 if name in ("commitment", "codebook") else len(those)
            terms[name] = torch.stack(values).sum() / share
        terms["loss"] = weighted_sum(terms, self.weights)
        return terms

    def _parts(
        self, name: str, out: Reconstruction, audio: Tensor, target: Tensor, own: Tensor
    ) -> list[Part]:
        """Return a term's levels or resolutions."""
        if name == "l1":
            return [masked((audio - target).abs(), own)]
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
            parts.append(masked((latents - entries).square(), keep))
        return parts

    def _stft(self, audio: Tensor, target: Tensor, own: Tensor) -> list[Part]:
        hann, reflect = self.config.stft_window == "hann", self.reflect
        parts = []
        for n_fft in self.config.n_ffts:
            made, wanted = (magnitude(x, n_fft, hann, reflect) for x in (audio, target))
            parts.append(_distance(made, wanted, n_fft, own))
        return parts

    def _mel(self, audio: Tensor, target: Tensor, own: Tensor) -> list[Part]:
        parts = []
        for n_fft in self.config.mel_n_ffts:
            filters = self.get_buffer(f"mel_{n_fft}")
            made, wanted = (
                (filters @ magnitude(x, n_fft, True, self.reflect)).clamp(min=LOG_FLOOR).log()
                for x in (audio, target)
            )
            parts.append(_distance(made, wanted, n_fft, own))
        return parts


def magnitude(audio: Tensor, n_fft: int, hann: bool, reflect: bool = False) -> Tensor:
    """Return the STFT magnitude, Tensor[B x n_fft/2+1 x frames], of ``audio``, Tensor[B x 1 x T].

    Hop a quarter of the FFT; frames centred, with zeros beyond the ends, or the mirrored signal
    if ``reflect``; window rectangular unless ``hann``.

    Raises
    ------
    TrainerError
        When ``audio`` is too short to be mirrored.
    """
    spectrum = stft(audio, n_fft, hann, reflect)
    # The root of a zero has no finite slope.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()


def stft(audio: Tensor, n_fft: int, hann: bool, reflect: bool = False) -> Tensor:
    """Return the complex STFT of which `magnitude` is the magnitude."""
    if reflect and audio.shape[-1] <= n_fft // 2:
        raise TrainerError(
            f"stft_padding 'reflect' with an FFT of {n_fft} needs segments of more than "
            f"{n_fft // 2} samples, not {audio.shape[-1]}"
        )
    window = torch.hann_window if hann else torch.ones
    return torch.stft(
        audio.squeeze(1),
        n_fft,
        hop_length=n_fft // 4,
        window=window(n_fft, device=audio.device),
        pad_mode="reflect" if reflect else "constant",
        return_complex=True,
    )


def before_end(own: Tensor, count: int, step: int, first: float = 0.0) -> Tensor:
    """Return Tensor[B x 1 x count]: 1 where a position does not lie past its segment's end.

    Parameters
    ----------
    own
        Tensor[B x 1 x T], 1 up to each segment's end; all 0 for a segment that has nothing.
    count, step, first
        How many positions there are, how many samples apart, and where the first one is.
    """
    positions = first + step * torch.arange(count, device=own.device)
    ends = own.sum(dim=-1, keepdim=True)
    return ((positions <= ends) & (ends > 0)).to(own.dtype)


def _distance(made: Tensor, wanted: Tensor, n_fft: int, own: Tensor) -> Part:
    """Sum absolute differences over the frames that each segment has without its padding."""
    return masked((made - wanted).abs(), before_end(own, made.shape[-1], step=n_fft // 4))


def masked(values: Tensor, keep: Tensor) -> Part:
    """Sum and count ``values`` where ``keep``, of the same shape or 1 in some axes, is 1."""
    each = math.prod(a // b for a, b in zip(values.shape[1:], keep.shape[1:], strict=True))
    return Part((values * keep).sum(), keep.sum() * each)


def ratios(parts: Sequence[Part], global_count: GlobalCount | None = None) -> list[Tensor]:
    """Return each part's total over its divisor, which all processes share."""
    divisors = torch.stack([part.divisor for part in parts]).detach()
    if global_count is not None:
        divisors = global_count(divisors)
    # Where nothing counts the total is 0 too. The totals stay apart: what was one tensor once
    # would lead each term's gradient, as a balancer asks for it, through all the others.
    safe = divisors.clamp(min=1e-8).unbind()
    return [part.total / divisor for part, divisor in zip(parts, safe, strict=True)]
