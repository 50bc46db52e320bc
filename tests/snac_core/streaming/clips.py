"""Shapes of models, codes and whole clips that streams are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.types import NoiseMode
from tests.support.models import TINY, TINY_ATTENTION

FOUR_LEVELS = SnacConfig(
    sampling_rate=8000,
    encoder_dim=4,
    encoder_rates=(3, 2, 5),
    decoder_dim=16,
    decoder_rates=(2, 5, 3),
    vq_strides=(8, 4, 2, 1),
    noise=False,
    depthwise=False,
)
"""Without attention; odd rates in another order on each side."""

NARROW_ATTENTION = SnacConfig(
    sampling_rate=8000,
    encoder_dim=16,
    encoder_rates=(4, 2),
    decoder_dim=64,
    decoder_rates=(2, 4),
    attn_window_size=6,
    vq_strides=(4, 2, 1),
)
"""Three levels; attention windows and coarse frames that meet every twelve latents only."""

CONFIGS = {
    "24khz": TINY,
    "32khz": TINY_ATTENTION,
    "four-levels": FOUR_LEVELS,
    "narrow-attention": NARROW_ATTENTION,
}

Levels = Sequence[npt.NDArray[np.int32]]


def random_levels(config: SnacConfig, units: int, seed: int = 0) -> Levels:
    """Return the codes of ``units`` times what a stream works through in one step."""
    random = np.random.default_rng(seed)
    frames = units * config.pad_multiple // config.frame_samples
    return [
        random.integers(0, config.codebook_size, frames * count).astype(np.int32)
        for count in config.codes_per_frame
    ]


def frames_of(config: SnacConfig, levels: Levels, first: int, last: int) -> Levels:
    """Return the codes of the frames from ``first`` to before ``last``."""
    return [
        level[first * count : last * count]
        for level, count in zip(levels, config.codes_per_frame, strict=True)
    ]


def decoded(
    codec: Codec, levels: Levels, noise: NoiseMode = "seeded", seed: int = 0, samples: int = 0
) -> npt.NDArray[np.float32]:
    """Return the audio of a whole clip; ``samples`` 0 stands for all that its codes hold."""
    capacity = len(levels[0]) // codec.config.codes_per_frame[0] * codec.config.frame_samples
    codes = Codes(tuple(levels), samples or capacity, codec.sample_rate)
    return codec.decode([codes], noise, seed)[0]
