from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from snac_core.types import Samples
from tests.trainer.conftest import voice
from trainer.data.acoustics import add_reverberation, equalize, limit_band
from trainer.data.augment import CODECS, Augmentation, add_noise, through_codec
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


def energy_above(samples: Samples, hz: float) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float(power[np.fft.rfftfreq(len(samples), 1 / RATE) > hz].sum() / power.sum())


def test_a_band_limit_removes_what_lies_above_it() -> None:
    noise = np.random.default_rng(3).standard_normal(RATE).astype(np.float32) * np.float32(0.1)
    limited = limit_band(noise, RATE, 4000.0)
    assert energy_above(noise, 4500.0) > 0.5
    assert energy_above(limited, 4500.0) < 0.001
    below = [np.abs(np.fft.rfft(part)[:3000]) for part in (limited, noise)]
    assert below[0] == pytest.approx(below[1], rel=0.01)


def test_an_equalizer_changes_one_part_of_the_spectrum_by_its_gain() -> None:
    click = np.zeros(RATE, np.float32)
    click[100] = 0.5
    spectrum = np.abs(np.fft.rfft(equalize(click, RATE, -9.0, np.random.default_rng(4)))) / 0.5
    assert 20 * np.log10(spectrum.min()) == pytest.approx(-9.0, abs=0.1)
    assert 20 * np.log10(spectrum.max()) == pytest.approx(0.0, abs=0.1)


def test_reverberation_follows_the_sound_and_decays() -> None:
    click = np.zeros(RATE, np.float32)
    click[1000] = 0.5
    wet = add_reverberation(click, RATE, 0.3, np.random.default_rng(5))
    assert wet.shape == click.shape
    assert np.abs(wet[:1000]).max() < 1e-6
    early, late = (float(np.square(wet[first : first + 1200]).sum()) for first in (1001, 4601))
    # 60 dB in 0.3 s are 30 dB in the 0.15 s between the two.
    assert 10 * np.log10(early / late) == pytest.approx(30.0, abs=2.0)


def test_a_stretch_of_silence_is_digital() -> None:
    changed_part = changed(silence_probability=1.0)
    silent = changed_part == 0.0
    assert 0.125 <= silent.mean() <= 0.51
    assert np.array_equal(changed_part[~silent], voice(0.5, 1, RATE)[~silent])


def test_filters_never_exceed_full_scale() -> None:
    loud = np.sign(voice(0.5, 1, RATE)) * np.float32(0.99)
    random = np.random.default_rng(6)
    assert np.abs(equalize(loud, RATE, 9.0, random)).max() <= 1.0
    assert np.abs(add_reverberation(loud, RATE, 0.5, random)).max() <= 1.0
    assert np.abs(limit_band(loud, RATE, 3000.0)).max() <= 1.0


def test_speed_is_drawn_apart_from_everything_else() -> None:
    fast = Augmentation(speed_probability=1.0, speed_range=(1.2, 1.2))
    assert fast.speed(1, 2, 3) == 1.2
    assert Augmentation().speed(1, 2, 3) == 1.0
    drawn = {Augmentation(speed_probability=0.5).speed(1, 1, i) for i in range(50)}
    assert 1.0 in drawn
    assert min(drawn) >= 0.9
    assert max(drawn) <= 1.1
    assert np.array_equal(changed(speed_probability=1.0), changed())
