"""Discriminators: they learn to tell reconstructions from recordings, and the codec to fool them.

There are two kinds. One sees the waveform folded into rows of a few samples, one for
each of several periods (HiFi-GAN, arXiv:2010.05646, section 2.3). The other sees the complex
spectrum, in bands, at several resolutions (arXiv:2306.06546, section 3.4, after EnCodec,
arXiv:2210.13438). Both look at levels as they are, so that silence stays silence.

Padding has no effect. A reconstruction is silenced past the recording's end, as the recording
is; the spectrum and every layer's output are set to zero there too, as a convolution finds them
past the end of a segment that stands alone; and neither scores nor layers past the end enter a
mean. A short segment in a long batch is so judged exactly as by itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from trainer.config import TrainConfig
from trainer.losses.losses import GlobalCount, Part, masked, ratios, stft

SLOPE = 0.1
"""Of the leaky ReLU below zero."""

BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Where a spectrum is divided, as shares of half the sample rate."""

SMALLEST_FEATURE = 1e-5
"""Mean size that a layer's output for recordings is taken to have at least."""


class Layer(NamedTuple):
    """One layer's output."""

    values: Tensor
    """Tensor[B x C x T x F], 0 where ``keep`` is."""
    keep: Tensor
    """Tensor[B x 1 x T x 1]: 1 up to each segment's end."""


class PeriodDiscriminator(nn.Module):
    """Judges samples that lie a period apart.

    Parameters
    ----------
    period
        Samples in a row; the layers never mix columns.
    channels
        Of each layer. All but the last have a stride of 3 rows.
    """

    def __init__(self, period: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.period = period
        self.strides = [3] * (len(channels) - 1) + [1]
        self.layers = nn.ModuleList(
            _conv(before, after, (5, 1), (stride, 1))
            for (before, after), stride in zip(pairwise((1, *channels)), self.strides, strict=True)
        )
        self.last = _conv(channels[-1], 1, (3, 1))

    def forward(self, audio: Tensor, ends: Tensor) -> list[Layer]:
        """Return every layer's output for ``audio``, Tensor[B x 1 x T]; the last one is the score.

        ``ends``, Tensor[B], are the segments' own lengths in samples.
        """
        audio = F.pad(audio, (0, -audio.shape[-1] % self.period))
        values = audio.reshape(len(audio), 1, -1, self.period)
        rows = _divided(ends, self.period)
        outputs = []
        for layer, stride in zip(self.layers, self.strides, strict=True):
            rows = _divided(rows, stride)
            outputs.append(_cut(F.leaky_relu(layer(values), SLOPE), rows))
            values = outputs[-1].values
        return [*outputs, _cut(self.last(values), rows)]


class SpectralDiscriminator(nn.Module):
    """Judges the complex spectrum of one resolution, band by band.

    Parameters
    ----------
    n_fft
        Samples per transform; Hann window, hop a quarter of it.
    channels
        Of each layer.
    """

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        bins = n_fft // 2 + 1
        self.bands = [slice(int(low * bins), int(high * bins)) for low, high in pairwise(BANDS)]
        self.stacks = nn.ModuleList(_spectral_stack(channels) for _ in self.bands)
        self.last = _conv(channels, 1, (3, 3))

    def forward(self, audio: Tensor, ends: Tensor) -> list[Layer]:
        """Return every layer's output for ``audio``, Tensor[B x 1 x T]; the last one is the score.

        ``ends``, Tensor[B], are the segments' own lengths in samples.
        """
        # There is no transform in bf16.
        with torch.autocast(audio.device.type, enabled=False):
            # Of the window's energy 1, so that a spectrum is about as large as its samples.
            spectrum = stft(audio.float(), self.n_fft, hann=True) / math.sqrt(self.n_fft * 3 / 8)
            values = torch.view_as_real(spectrum).permute(0, 3, 2, 1)
        frames = torch.where(ends > 0, ends // (self.n_fft // 4) + 1, 0)
        # A frame centred past the end still reaches back over it.
        values, _ = _cut(values, frames)
        outputs, tops = [], []
        for band, stack in zip(self.bands, self.stacks, strict=True):
            top = values[..., band]
            for layer in cast(nn.ModuleList, stack):
                outputs.append(_cut(F.leaky_relu(layer(top), SLOPE), frames))
                top = outputs[-1].values
            tops.append(top)
        return [*outputs, _cut(self.last(torch.cat(tops, dim=-1)), frames)]


class Discriminators(nn.Module):
    """All discriminators, what they learn from, and what the codec learns from them.

    The means are over positions, then over layers, then over discriminators, so that weights
    mean the same for any number of these.

    Parameters
    ----------
    config
        Says which discriminators there are; with ``precision`` bf16, their convolutions run in
        it and all else in fp32.
    global_count
        As for `trainer.losses.losses.Losses`; called once in each of the two methods.
    """

    def __init__(self, config: TrainConfig, global_count: GlobalCount | None = None) -> None:
        super().__init__()
        self.global_count = global_count
        self.bf16 = config.precision == "bf16"
        self.warmup_steps = config.discriminator_warmup_steps
        self.every = config.discriminator_every
        self.discriminators = nn.ModuleList(
            [
                *(
                    PeriodDiscriminator(period, config.discriminator_period_channels)
                    for period in config.discriminator_periods
                ),
                *(
                    SpectralDiscriminator(n_fft, config.discriminator_fft_channels)
                    for n_fft in config.discriminator_n_ffts
                ),
            ]
        )

    def teaches(self, step: int) -> bool:
        """Whether the codec learns from the discriminators in ``step``, counted from 0."""
        return step >= self.warmup_steps

    def learns(self, step: int) -> bool:
        """Whether the discriminators themselves learn in ``step``, counted from 0."""
        return step % self.every == 0

    def forward(self, made: Tensor, real: Tensor, own: Tensor) -> Tensor:
        """Return `loss`: so that a wrapper that divides batches over processes can call it."""
        return self.loss(made, real, own)

    def loss(self, made: Tensor, real: Tensor, own: Tensor) -> Tensor:
        """Return what the discriminators minimise, a scalar; no gradient reaches ``made``.

        The squared distance of the scores from 1 for recordings and from 0 for what was made
        (least squares, arXiv:1611.04076).

        Parameters
        ----------
        made, real
            Tensor[B x 1 x T]: what the codec made, and the recording.
        own
            Tensor[B x 1 x T], 1 up to each segment's end, 0 past it.
        """
        on_made, on_real = self._layers(made.detach(), own), self._layers(real, own)
        parts = [_squares(layers[-1], 0.0) for layers in on_made]
        parts += [_squares(layers[-1], 1.0) for layers in on_real]
        return 2.0 * _mean(ratios(parts, self.global_count))

    def generator_terms(self, made: Tensor, real: Tensor, own: Tensor) -> dict[str, Tensor]:
        """Return the terms that the codec learns from, unweighted, named as in `TERMS`.

        The discriminators get no gradient. ``feature`` is over the layers before the score, the
        absolute difference over the mean size for the recordings of the whole batch.

        Parameters
        ----------
        made, real, own
            As for `loss`.
        """
        with self._held():
            on_made, on_real = self._layers(made, own), self._layers(real, own)
        parts = [_squares(layers[-1], 1.0) for layers in on_made]
        for made_layers, real_layers in zip(on_made, on_real, strict=True):
            parts += map(_difference, made_layers[:-1], real_layers[:-1])
        values = iter(ratios(parts, self.global_count))
        scores = [next(values) for _ in on_made]
        features = [_mean([next(values) for _ in layers[:-1]]) for layers in on_made]
        return {"adversarial": _mean(scores), "feature": _mean(features)}

    def _layers(self, audio: Tensor, own: Tensor) -> list[list[Layer]]:
        audio, ends = audio.float() * own, own.sum(dim=(1, 2)).long()
        with torch.autocast(audio.device.type, torch.bfloat16, enabled=self.bf16):
            return [discriminator(audio, ends) for discriminator in self.discriminators]

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Let what is computed within not reach these weights."""
        self.requires_grad_(False)
        try:
            yield
        finally:
            self.requires_grad_(True)


def _spectral_stack(channels: int) -> nn.ModuleList:
    """Return layers that see 9 bins and 3 frames each, three of which halve the bins."""
    layers = [_conv(2, channels, (3, 9))]
    layers += [_conv(channels, channels, (3, 9), (1, 2)) for _ in range(3)]
    return nn.ModuleList([*layers, _conv(channels, channels, (3, 3))])


def _conv(
    before: int, after: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)
) -> nn.Module:
    """Return a convolution over positions, every one a center of its kernel."""
    conv = nn.Conv2d(before, after, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2))
    # PyTorch's own start loses half of a signal in every layer, and all of speech in six.
    nn.init.kaiming_normal_(conv.weight, SLOPE)
    normed: nn.Module = weight_norm(conv)
    return normed


def _divided(lengths: Tensor, step: int) -> Tensor:
    """Return how many positions, ``step`` apart, begin before the end."""
    return (lengths + step - 1) // step


def _cut(values: Tensor, lengths: Tensor) -> Layer:
    """Set ``values``, Tensor[B x C x T x F], to zero past each item's length in T."""
    positions = torch.arange(values.shape[2], device=values.device)
    keep = (positions < lengths[:, None]).float()[:, None, :, None]
    return Layer(values * keep.to(values.dtype), keep)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(values)).mean()


def _squares(score: Layer, wanted: float) -> Part:
    return masked((score.values.float() - wanted).square(), score.keep)


def _difference(made: Layer, real: Layer) -> Part:
    total, _ = masked((made.values.float() - real.values.float()).abs(), made.keep)
    size, count = masked(real.values.float().abs(), real.keep)
    return Part(total, size + SMALLEST_FEATURE * count)
