"""A picture of a recording: waveform, spectrogram and tokens over one time axis."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.errors import SnacError
from snac_core.quality import HOP, MEL_FLOOR, N_FFT, N_MELS, mel_filterbank
from snac_core.types import Samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

RANGE_DB = 80.0
MAX_COLUMNS = 2000
"""Columns of the waveform and the spectrogram: more than the picture has dots."""


def save(path: Path, samples: Samples, codes: Codes, config: SnacConfig, title: str = "") -> None:
    """Write `draw`'s picture to ``path``, whose suffix says the format."""
    path.write_bytes(draw(samples, codes, config, title, path.suffix.lower().lstrip(".")))


def draw(
    samples: Samples, codes: Codes, config: SnacConfig, title: str = "", format: str = "png"
) -> bytes:
    """Return the picture of a recording.

    Parameters
    ----------
    samples
        float, [T], at the rate of ``config``; the recording, or what ``codes`` decode to.
    codes
        Drawn with one row for each level, coarse to fine; a code is as wide as its time.
    title
        The line above the picture.
    format
        ``png``, ``svg`` or ``pdf``.

    Raises
    ------
    SnacError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SnacError("plots need matplotlib: pip install 'snac-tokenizer[train]'") from None

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 2.5))
    seconds = len(samples) / config.sampling_rate
    _draw_waveform(top, samples, seconds)
    power = _draw_spectrogram(middle, samples, seconds, config.sampling_rate)
    figure.colorbar(power, ax=middle, label="dB", pad=0.01)
    tokens = _draw_tokens(bottom, codes, config)
    figure.colorbar(tokens, ax=bottom, label="code", pad=0.01)
    bottom.set(xlabel="s", xlim=(0, seconds))
    figure.suptitle(title, fontsize=10)
    picture = io.BytesIO()
    figure.savefig(picture, format=format, dpi=150)
    return picture.getvalue()


def _draw_waveform(axes: Axes, samples: Samples, seconds: float) -> None:
    """Draw the lowest and highest sample of each column."""
    columns = min(len(samples), MAX_COLUMNS)
    starts = np.linspace(0, len(samples), columns, endpoint=False).astype(np.int64)
    times = starts / len(samples) * seconds
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    axes.fill_between(times, low, high, step="post", color="#1f77b4", linewidth=0.6)
    peak = max(1e-3, float(np.abs(samples).max()))
    axes.set(ylabel="amplitude", ylim=(-1.05 * peak, 1.05 * peak))


def _draw_spectrogram(axes: Axes, samples: Samples, seconds: float, sample_rate: int) -> AxesImage:
    """Draw a mel spectrogram in dB below the loudest point."""
    decibels = _mel_decibels(samples, sample_rate)
    axes.set(ylabel="mel band")
    return axes.imshow(
        decibels,
        aspect="auto",
        origin="lower",
        cmap="magma",
        vmin=-RANGE_DB,
        vmax=0,
        extent=(0, seconds, 0, len(decibels)),
    )


def _mel_decibels(samples: Samples, sample_rate: int) -> npt.NDArray[np.float32]:
    """Return [mels, frames] in dB, 0 at the loudest, at most `MAX_COLUMNS` frames."""
    hop = max(HOP, -(-len(samples) // MAX_COLUMNS))
    padded = np.pad(np.asarray(samples, np.float32), N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::hop]
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    mels = np.abs(np.fft.rfft(frames * window)) @ mel_filterbank(sample_rate, N_FFT, N_MELS).T
    decibels = 20 * np.log10(np.maximum(mels, MEL_FLOOR))
    return np.asarray((decibels - decibels.max()).T, np.float32)


def _draw_tokens(axes: Axes, codes: Codes, config: SnacConfig) -> AxesImage:
    """Draw a row of coloured boxes for each level; levels share the colours of codes."""
    count = len(codes.levels)
    for level, values in enumerate(codes.levels):
        seconds = len(values) * config.vq_strides[level] * config.hop / config.sampling_rate
        image = axes.imshow(
            np.asarray(values)[None, :],
            aspect="auto",
            cmap="turbo",
            interpolation="nearest",
            vmin=0,
            vmax=config.codebook_size - 1,
            extent=(0, seconds, count - level - 1, count - level - 0.08),
        )
    axes.set(ylim=(0, count), yticks=np.arange(count) + 0.5)
    axes.set_yticklabels([f"level {level}" for level in reversed(range(count))])
    axes.tick_params(axis="y", length=0)
    return image
