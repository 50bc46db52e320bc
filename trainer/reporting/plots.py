"""Plots for HTML pages: SVG without a background, coloured by the page's CSS variables.

Text and axes take the page's text colour, and curves its ``--series-N``, so that a figure
fits a light and a dark page alike. Nothing in them points outside the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snac_core.types import Samples
from trainer.model.code_use import Counts
from trainer.reporting.curves import Curves

INK, FAINT = "#010203", "#040506"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
"""Stand-ins for colours of the page, which matplotlib does not know."""

MOST_POINTS = 160
SPECTROGRAM_FFT = 1024
SPECTROGRAM_RANGE_DB = 75.0

_VARIABLES = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    **{color: f"var(--series-{place})" for place, color in enumerate(SERIES)},
}
_UNWANTED = (
    re.compile(r"<(metadata|style)\b.*?</\1>", re.DOTALL),
    # HTML knows these names, and the page says how large and in which font.
    re.compile(r' xmlns(:xlink)?="[^"]*"'),
    re.compile(r'(?<=pt") (?:width|height)="[^"]*"|(?<=<svg) (?:width|height)="[^"]*"'),
    re.compile(r"font-family: [^;\"]*; "),
    re.compile(r'(?<=<g) id="[^"]*"'),
)
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def spectrograms(signals: Mapping[str, Samples], sample_rate: int) -> str:
    """Return log-magnitude spectrograms side by side, all on the first one's scale.

    Parameters
    ----------
    signals
        By name, [T] each.
    sample_rate
        Hz.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 2.3), layout="constrained")
        axes = figure.subplots(1, len(signals), sharey=True, squeeze=False)[0]
        top = None
        for axis, (name, samples) in zip(axes, signals.items(), strict=True):
            decibels = _decibels(samples)
            top = decibels.max() if top is None else top
            axis.imshow(
                decibels,
                aspect="auto",
                origin="lower",
                cmap="magma",
                vmin=top - SPECTROGRAM_RANGE_DB,
                vmax=top,
                extent=(0, len(samples) / sample_rate, 0, sample_rate / 2000),
            )
            axis.set(title=name, xlabel="s")
            axis.grid(visible=False)
        axes[0].set_ylabel("kHz")
        return _svg(figure, f"Spectrograms: {', '.join(signals)}")


def _decibels(samples: Samples) -> npt.NDArray[np.float32]:
    """Return [bins, frames] in dB, with no more frames than a figure can show."""
    padded = np.pad(samples, SPECTROGRAM_FFT // 2)
    hop = max(SPECTROGRAM_FFT // 4, len(samples) // 400)
    frames = np.lib.stride_tricks.sliding_window_view(padded, SPECTROGRAM_FFT)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(SPECTROGRAM_FFT))) ** 2
    # Pairs of bins: finer than the picture's dots otherwise.
    pairs = power[:, 1:].reshape(len(power), -1, 2).mean(axis=2)
    decibels: npt.NDArray[np.float32] = (10 * np.log10(np.maximum(pairs, 1e-10))).T.astype(
        np.float32
    )
    return decibels


def loss_curves(curves: Curves) -> str:
    """Return a run's loss and its terms over the steps: training, validation, baselines.

    Where a stage of the curriculum begins there is a dashed line.
    """
    names = list(dict.fromkeys(name for split in curves.splits.values() for name in split))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.4 + 2.2 * rows), layout="constrained")
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, name in zip(grid, names, strict=False):
            for place, (split, by_name) in enumerate(sorted(curves.splits.items())):
                if name in by_name:
                    steps, values = by_name[name]
                    marker = "." if len(steps) <= 40 else ""
                    axis.plot(steps, values, color=_color(place), label=split, marker=marker)
            if name == "loss" and curves.baseline is not None:
                axis.axhline(curves.baseline, color=INK, linestyle=":", label="base, val")
            for place, split in enumerate(sorted(curves.splits)):
                if name == "loss" and split in curves.baselines:
                    base = curves.baselines[split]
                    axis.axhline(base, color=_color(place), linestyle=":", label=f"base, {split}")
            for step in curves.stages:
                axis.axvline(step, color=INK, linestyle="--", linewidth=0.6, alpha=0.6)
            axis.set(title=name, xlabel="step")
        grid[0].legend()
        for axis in grid[len(names) :]:
            axis.remove()
        return _svg(figure, "Loss over training steps")


def rank_frequency(panels: Mapping[str, Sequence[Counts]]) -> str:
    """Return how often the most used entry of each level is chosen, the second, and so on.

    Parameters
    ----------
    panels
        Each model's counts, one array per level, coarse to fine.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (name, levels) in zip(axes, panels.items(), strict=True):
            for level, counts in enumerate(levels):
                ranked = np.sort(counts[counts > 0])[::-1] / max(1, counts.sum())
                ranks = _spread(len(ranked))
                axis.plot(ranks + 1, ranked[ranks], color=_color(level), label=f"level {level}")
            axis.set(xscale="log", yscale="log", title=name, xlabel="rank of the entry")
            _plain_ticks(axis)
        axes[0].set_ylabel("share of codes")
        axes[-1].legend()
        return _svg(figure, "Share of codes by rank of the entry")


def lorenz(levels: Sequence[Counts]) -> str:
    """Return which share of the codes the least used entries have; a diagonal if all are alike."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 2.8), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1)
        for level, counts in enumerate(levels):
            share = np.concatenate([[0], np.cumsum(np.sort(counts)) / max(1, counts.sum())])
            picks = np.linspace(0, len(counts), MOST_POINTS).astype(int)
            axis.plot(
                picks / len(counts), share[picks], color=_color(level), label=f"level {level}"
            )
        axis.set(xlabel="share of entries, least used first", ylabel="share of codes")
        axis.legend()
        return _svg(figure, "Lorenz curve of codebook use")


def run_lengths(levels: Sequence[Counts]) -> str:
    """Return how frequent runs of each length are.

    Parameters
    ----------
    levels
        For each level, how many runs have index + 1 codes; the last counts longer ones too.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 2.8), layout="constrained")
        axis = figure.subplots()
        for level, counts in enumerate(levels):
            lengths = np.flatnonzero(counts)
            lengths = lengths[_spread(len(lengths))]
            share = counts[lengths] / max(1, counts.sum())
            marker = "." if len(lengths) <= 40 else ""
            axis.plot(
                lengths + 1, share, color=_color(level), label=f"level {level}", marker=marker
            )
        axis.set(xscale="log", yscale="log", xlabel="codes in the run", ylabel="share of runs")
        _plain_ticks(axis)
        axis.legend()
        return _svg(figure, "Lengths of runs of one code")


def code_maps(levels: Sequence[Counts]) -> str:
    """Return a picture of each codebook: one dot per entry, the brighter the more it is used."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 9 / len(levels) + 0.3), layout="constrained")
        axes = figure.subplots(1, len(levels), squeeze=False)[0]
        for level, (axis, counts) in enumerate(zip(axes, levels, strict=True)):
            side = int(np.ceil(np.sqrt(len(counts))))
            dots = np.full(side * side, np.nan)
            dots[: len(counts)] = np.log1p(counts)
            axis.imshow(dots.reshape(side, side), cmap="magma", interpolation="nearest")
            axis.set(title=f"level {level}", xlabel=f"entry modulo {side}")
            axis.grid(visible=False)
        return _svg(figure, "Use of each codebook entry")


def _color(place: int) -> str:
    return SERIES[place % len(SERIES)]


def _spread(length: int) -> npt.NDArray[np.int64]:
    """Return at most `MOST_POINTS` indices below ``length``, evenly spaced on a log scale."""
    if not length:
        return np.zeros(0, np.int64)
    return np.unique(np.geomspace(1, length, MOST_POINTS).round().astype(np.int64)) - 1


def _plain_ticks(axis: Axes) -> None:
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, _: f"{value:g}")
        side.set_minor_formatter(lambda value, _: "")


def _svg(figure: Figure, title: str) -> str:
    """Return a figure as an element of an HTML page; the title is for who cannot see it."""
    file = io.BytesIO()
    # With a salt, the same figure gets the same names inside every time.
    with matplotlib.rc_context({"svg.hashsalt": "figure"}):
        figure.savefig(file, format="svg", dpi=110, metadata={"Date": None})
    text = file.getvalue().decode()
    text = text[text.index("<svg") :]
    for unwanted in _UNWANTED:
        text = unwanted.sub("", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text.replace("<svg", f'<svg role="img" aria-label={quoteattr(title)}', 1)
