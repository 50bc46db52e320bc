"""Networks of others that judge speech; without their packages there is nothing to test."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import numpy.typing as npt
import pytest

from tests.trainer.conftest import voice
from trainer.evaluation.learned_measures import dnsmos, speaker_similarity, word_error_rate

RATE = 24000


def needs(*packages: str) -> None:
    for package in packages:
        # Found but not imported, as some take long.
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'snac-tokenizer[quality]'")


def noisy(samples: npt.NDArray[np.float32], level: float) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(1).standard_normal(len(samples))
    return (samples + level * noise).astype(np.float32)


def test_noise_costs_naturalness() -> None:
    needs("onnxruntime", "speechmos")
    clean = voice(3.0, 1)
    scores = [dnsmos(clean, made, RATE) for made in (clean, noisy(clean, 0.3))]
    assert 1.0 < scores[1] < scores[0] < 5.0
    assert math.isnan(dnsmos(clean, clean[:0], RATE))


def test_a_voice_is_most_like_itself() -> None:
    needs("resemblyzer")
    one, other = voice(2.0, 1), voice(2.0, 2)
    assert speaker_similarity(one, one, RATE) == pytest.approx(1.0, abs=1e-5)
    assert speaker_similarity(one, 0.5 * one, RATE) > speaker_similarity(one, other, RATE)
    assert math.isnan(speaker_similarity(np.zeros_like(one), one, RATE))


def test_what_says_the_same_has_no_errors() -> None:
    needs("pocketsphinx", "jiwer")
    sound = voice(2.0, 3)
    rate = word_error_rate(sound, sound, RATE)
    assert rate == 0.0 or math.isnan(rate), "a voice without words may have none"
    assert math.isnan(word_error_rate(np.zeros(RATE, np.float32), sound, RATE))
