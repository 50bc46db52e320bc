from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch

from snac_core.codec import Codec
from snac_core.config import PRESETS, SnacConfig
from snac_core.errors import ModelError
from snac_core.model import SNAC
from snac_core.store.golden import check_golden, golden_clip, golden_levels

TINY = SnacConfig(
    sampling_rate=8000,
    encoder_dim=8,
    encoder_rates=(2, 4, 4),
    decoder_dim=32,
    decoder_rates=(4, 4, 2),
    codebook_size=256,
    codebook_dim=4,
    vq_strides=(4, 2, 1),
)


def tiny_codec(seed: int) -> Codec:
    torch.manual_seed(seed)
    return Codec(SNAC(TINY).eval(), version="test", token_space="test")


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("snac_24khz", "a198c16d14fa7761"),
        ("snac_32khz", "bbefbaaa66d19eeb"),
        ("snac_44khz", "9689b67fbb859348"),
    ],
)
def test_the_clip_never_changes(name: str, digest: str) -> None:
    # Every published version holds codes of this clip.
    clip = golden_clip(PRESETS[name])
    assert hashlib.sha256(clip.astype("<f4").tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("config", [*PRESETS.values(), TINY])
def test_the_clip_is_speech_like_in_length_and_level(config: SnacConfig) -> None:
    clip = golden_clip(config)
    assert clip.dtype == np.float32
    assert clip.ndim == 1
    assert 1.0 < len(clip) / config.sampling_rate < 1.1
    assert len(clip) % config.frame_samples
    assert np.abs(clip).max() == 0.5
    assert 0.02 < clip.std() < 0.2


def test_a_model_gives_its_own_golden_codes() -> None:
    codec = tiny_codec(seed=0)
    check_golden(codec, golden_levels(codec))


def test_another_model_gives_nearly_all_other_codes() -> None:
    expected = golden_levels(tiny_codec(seed=0))
    with pytest.raises(ModelError, match=r"^\d+ of \d+ codes of the golden clip differ") as raised:
        check_golden(tiny_codec(seed=1), expected)
    differing, total = map(int, re.findall(r"\d+", str(raised.value))[:2])
    assert differing > 0.9 * total


def test_as_many_codes_may_differ_as_one_near_tie_can_change() -> None:
    codec = tiny_codec(seed=0)
    levels = [list(level) for level in golden_levels(codec)]
    total = sum(map(len, levels))
    allowed = max(7, total // 100)
    for index in range(allowed):
        levels[2][index] ^= 1
    check_golden(codec, levels)
    levels[0][0] ^= 1
    with pytest.raises(ModelError, match=f"^{allowed + 1} of {total} codes .*at most {allowed}"):
        check_golden(codec, levels)


def test_levels_of_other_lengths_are_another_geometry() -> None:
    codec = tiny_codec(seed=0)
    levels = golden_levels(codec)
    with pytest.raises(ModelError, match="levels of"):
        check_golden(codec, levels[:2])
    with pytest.raises(ModelError, match="levels of"):
        check_golden(codec, [level[:-1] for level in levels])
