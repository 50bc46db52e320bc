"""How a long clip is cut so that each piece comes out as it would in the whole.

A window is a run of samples that is computed at once. Its core is what is kept of it; the
context on either side is computed only so that the core sees its real neighbourhood. A
window that reaches the clip's end has none there: the zeros that the network pads with are
the clip's own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from snac_core.config import SnacConfig


class Window(NamedTuple):
    """A run of samples, all four bounds counted from the clip's start."""

    start: int
    """First sample computed."""
    stop: int
    """One past the last sample computed."""
    core_start: int
    """First sample kept."""
    core_stop: int
    """One past the last sample kept."""

    @property
    def samples(self) -> int:
        """Samples computed."""
        return self.stop - self.start


def receptive_radius(config: SnacConfig) -> int:
    """Return how many samples away an input can change an output, attention aside.

    The encoder and the decoder mirror each other, so that the figure holds for both. Per
    resolution: three residual units of kernel 7 and dilations 1, 3, 9 reach 3 + 9 + 27
    positions, a change of rate by its padding, the first and the last convolution 3.
    """

    def reach(rates: tuple[int, ...]) -> int:
        step, radius = 1, 3
        for rate in rates:
            radius += 39 * step + math.ceil(rate / 2) * step
            step *= rate
        return radius + 3 * step

    return max(reach(config.encoder_rates), reach(config.decoder_rates[::-1]))


def context_samples(config: SnacConfig) -> int:
    """Return the samples of context that make a window's core exact.

    Whole multiples of ``config.pad_multiple``. With attention, a kept latent may depend on
    a latent of the neighbouring attention window, all of which must then be right, so what
    lies before the attention reaches out from that window's far edge.
    """
    unit = config.pad_multiple
    radius = receptive_radius(config)
    if config.attn_window_size is None:
        return math.ceil(radius / unit) * unit
    # In the encoder three latents follow the attention and the rest comes before it; in
    # the decoder it is the other way round.
    near = 3 * config.hop
    return (math.ceil(near / unit) + math.ceil((radius - near) / unit)) * unit


def plan(config: SnacConfig, num_samples: int, core_samples: int) -> list[Window]:
    """Cut ``num_samples`` of audio into windows, in order of time.

    Parameters
    ----------
    config
        Shape of the model.
    num_samples
        Length of the clip; it is rounded up to ``config.pad_multiple``.
    core_samples
        Samples to keep of each window, rounded up likewise. A clip that is no longer than
        a core with its context stays whole.

    Returns
    -------
    list of Window
        Cores follow each other without gap or overlap and cover the padded clip.
    """
    total = config.padded_samples(num_samples)
    core, context = config.padded_samples(core_samples), context_samples(config)
    if total <= core + 2 * context:
        return [Window(0, total, 0, total)]
    return [
        Window(
            max(0, start - context),
            min(total, start + core + context),
            start,
            min(total, start + core),
        )
        for start in range(0, total, core)
    ]
