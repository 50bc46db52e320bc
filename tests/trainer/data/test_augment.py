from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.trainer.conftest import voice
from trainer.data.augment import CODECS, Augmentation, add_noise, through_codec
from trainer.data.recordings import Samples
from trainer.errors import TrainerError

RATE = 24000


def changed(seed: int = 1, **options: Any) -> Samples:
    samples = voice(0.5, 1, RATE)
    augmentation = Augmentation(**options)
    return augmentation(samples, RATE, np.random.default_rng(seed))


def test_nothing_happens_unless_it_is_asked_for() -> None:
    assert np.array_equal(changed(), voice(0.5, 1, RATE))


def test_polarity_is_a_sign() -> None:
    plain = voice(0.5, 1, RATE)
    assert np.array_equal(changed(polarity_probability=1.0), -plain)
    signs = {float(changed(seed, polarity_probability=0.5)[99] / plain[99]) for seed in range(20)}
    assert signs == {1.0, -1.0}


@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_is_as_loud_as_asked(snr: float) -> None:
    plain = voice(0.5, 1, RATE)
    noise = changed(noise_probability=1.0, noise_snr_db=(snr, snr)) - plain
    assert 10 * np.log10((plain**2).mean() / (noise**2).mean()) == pytest.approx(snr, abs=0.2)
    silence = np.zeros(100, np.float32)
    assert not add_noise(silence, snr, np.random.default_rng(0)).any()
    loud = add_noise(np.sign(plain), snr, np.random.default_rng(0))
    assert np.abs(loud).max() == pytest.approx(1.0)


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_changes_the_sound_and_not_where_it_is(codec: str) -> None:
    plain = voice(1.0, 1, RATE)

    def snr(quality: float) -> float:
        coded = through_codec(plain, RATE, codec, quality)
        assert coded.shape == plain.shape
        assert coded.dtype == np.float32
        return float(10 * np.log10((plain**2).sum() / ((plain - coded) ** 2).sum()))

    assert 3 < snr(0.0) < snr(1.0) < 60
    assert through_codec(plain[:7], RATE, codec, 0.5).shape == (7,)
    assert not np.array_equal(changed(codec_probability=1.0, codecs=(codec,)), voice(0.5, 1, RATE))


def test_one_change_does_not_disturb_the_others() -> None:
    gain: dict[str, Any] = {"gain_probability": 1.0, "gain_db": (-12.0, 0.0)}
    alone = changed(**gain)
    with_sign = changed(**gain, polarity_probability=1.0)
    assert np.array_equal(alone, -with_sign)


def test_codecs_that_cannot_be_are_named() -> None:
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"codecs": ("opus",)}, 44100, "opus cannot hold 44100 Hz"),
        ({"codecs": ("speex",)}, 24000, "codecs must be of opus, vorbis, mp3, not 'speex'"),
        ({"codecs": ()}, 24000, "not none"),
    ]
    for options, rate, said in cases:
        with pytest.raises(TrainerError, match=said):
            Augmentation(codec_probability=0.1, **options).check(rate)
        Augmentation(**options).check(rate)
    Augmentation(codec_probability=0.1, codecs=("vorbis", "mp3")).check(44100)
