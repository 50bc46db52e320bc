from __future__ import annotations

import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pystoi
import pytest

from snac_core import audio
from snac_core.errors import AudioError
from snac_core.quality import log_mel_distance, mel_filterbank, si_sdr, stoi

RATE = 24000


def noise(samples: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def syllables(seconds: float, rate: int = RATE) -> npt.NDArray[np.float32]:
    """Return noise that swells four times a second, as speech does."""
    time = np.arange(int(seconds * rate), dtype=np.float32) / np.float32(rate)
    swell: npt.NDArray[np.float32] = 1 + np.sin(8 * np.float32(np.pi) * time)
    return noise(len(time)) * swell


def test_the_filterbank_is_librosas_slaney_one() -> None:
    # Values of librosa.filters.mel(sr=22050, n_fft=2048).
    filters = mel_filterbank(22050, 2048, 128)
    assert filters.shape == (128, 1025)
    assert filters.dtype == np.float32
    first = [0, 0.016182853208219942, 0.032365706416439884, 0.028990088037379964]
    first += [0.012807234829160026, 0]
    second = [0, 0, 0, 0.009779235793639925, 0.025962089001859864, 0.035393705451959974]
    second += [0.01921085224374004, 0.003027999035520103, 0]
    assert np.allclose(filters[0, :6], first, atol=1e-7)
    assert np.allclose(filters[1, :9], second, atol=1e-7)


@pytest.mark.parametrize("rate", [16000, 24000, 32000, 44100])
def test_filters_have_an_area_of_one_and_rising_peaks(rate: int) -> None:
    filters = mel_filterbank(rate, 16384, 80)
    assert np.allclose(filters.sum(axis=1) * rate / 16384, 1, atol=0.02)
    assert (np.diff(filters.argmax(axis=1)) > 0).all()


def test_log_mel_distance_of_a_gain_is_its_logarithm() -> None:
    wave = noise(RATE)
    assert log_mel_distance(wave, wave, RATE) == 0
    assert log_mel_distance(wave, 0.5 * wave, RATE) == pytest.approx(math.log(2), abs=1e-4)
    assert log_mel_distance(0.5 * wave, wave, RATE) == pytest.approx(math.log(2), abs=1e-4)


def test_log_mel_distance_stops_at_the_floor() -> None:
    assert log_mel_distance(np.zeros(RATE), np.full(RATE, 1e-9), RATE) == 0


def test_log_mel_distance_of_long_clips_is_the_mean_over_frames() -> None:
    clip = np.concatenate([noise(2**20 + 300), np.zeros(2**20)])
    quiet = np.concatenate([0.5 * noise(2**20 + 300), np.zeros(2**20)])
    assert log_mel_distance(clip, quiet, RATE) == pytest.approx(math.log(2) / 2, abs=1e-3)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 10.0, 40.0])
def test_si_sdr_is_the_ratio_whatever_the_scale(snr: float) -> None:
    wave = noise(200_000).astype(np.float64)
    other = noise(200_000, 1).astype(np.float64)
    wave -= wave.mean()
    other -= other.mean()
    other -= wave * (wave @ other) / (wave @ wave)
    other *= math.sqrt((wave @ wave) / (other @ other)) * 10 ** (-snr / 20)
    for gain in (1.0, 0.1, -3.0):
        assert si_sdr(wave, gain * (wave + other)) == pytest.approx(snr, abs=0.01)
    assert si_sdr(wave + 0.5, wave + other - 0.2) == pytest.approx(snr, abs=0.01)


def test_measuring_long_clips_takes_no_copies_of_them() -> None:
    clip = noise(24 * 2**20)
    other = clip + np.float32(0.01)
    tracemalloc.start()
    try:
        assert si_sdr(clip, other) > 30
        assert log_mel_distance(clip, other, RATE) < 1
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < clip.nbytes


def test_si_sdr_at_its_limits() -> None:
    wave = noise(1000)
    assert si_sdr(wave, wave) == math.inf
    assert si_sdr(wave, np.zeros(1000)) == -math.inf
    assert math.isnan(si_sdr(np.zeros(1000), wave))
    assert math.isnan(si_sdr(np.full(1, 0.5), np.full(1, 0.5)))


@pytest.mark.parametrize("rate", [8000, 10000, 16000, 24000, 32000, 44100])
def test_stoi_falls_with_noise(rate: int) -> None:
    clean = syllables(3, rate)
    scores = [stoi(clean, clean + level * noise(len(clean), 1), rate) for level in (0, 0.3, 1, 10)]
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.6


def test_stoi_is_pystois() -> None:
    clean = syllables(4)
    clean[20_000:50_000] = 0
    heard = clean + 0.3 * noise(len(clean), 1)
    expected = pystoi.stoi(clean.astype(np.float64), heard.astype(np.float64), RATE)
    assert stoi(clean, heard, RATE) == pytest.approx(expected, abs=1e-9)


def test_stoi_of_a_long_recording_is_the_mean_of_its_pieces() -> None:
    rate = 10000
    clean = syllables(64, rate)
    heard = clean.copy()
    heard[: 32 * rate] += noise(32 * rate, 1)
    halves = [stoi(clean[part], heard[part], rate) for part in np.split(np.arange(64 * rate), 2)]
    assert halves[1] == pytest.approx(1, abs=1e-6)
    assert halves[0] < 0.9
    assert stoi(clean, heard, rate) == pytest.approx(sum(halves) / 2, abs=1e-9)


@pytest.mark.parametrize("samples", [1, 100, 700, 5000, 9000])
def test_stoi_of_too_little_is_not_a_number(samples: int) -> None:
    clip = noise(samples)
    assert math.isnan(stoi(clip, clip, RATE))


def test_stoi_of_silence_is_not_a_number() -> None:
    assert math.isnan(stoi(np.zeros(2 * RATE), noise(2 * RATE), RATE))
    mostly = np.zeros(2 * RATE)
    mostly[:5000] = noise(5000)
    assert math.isnan(stoi(mostly, mostly, RATE))


def test_different_lengths_are_refused() -> None:
    for measure in (log_mel_distance, stoi):
        with pytest.raises(AudioError, match="the reference has 100 samples and the estimate 99"):
            measure(noise(100), noise(99), RATE)
    with pytest.raises(AudioError, match="they must be equally long"):
        si_sdr(noise(100), noise(99))


def test_measures_on_real_speech() -> None:
    folder = os.environ.get("SNAC_TEST_SPEECH")
    if not folder:
        pytest.skip("SNAC_TEST_SPEECH names no folder of speech")
    path = next(p for p in sorted(Path(folder).rglob("*")) if p.suffix in {".wav", ".opus"})
    clean = audio.read(path, RATE)
    heard = audio.read(audio.encode_bytes(clean, RATE, "ogg"), RATE)
    assert stoi(clean, heard, RATE) > 0.95
    assert log_mel_distance(clean, heard, RATE) < 0.5
    assert si_sdr(clean, heard) > 5
