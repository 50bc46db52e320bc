"""Exactness: what a clip gives depends on nothing but the clip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.errors import AudioError, CodesError
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise
from tests.support.models import TINY, TINY_ATTENTION, noise, random_codec, random_model

ROOT = Path(__file__).parents[2]
LENGTHS = st.lists(st.integers(1, 30_000), min_size=2, max_size=5)


def _same(first: Codes, second: Codes) -> None:
    for a, b in zip(first.levels, second.levels, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.num_samples == second.num_samples


@settings(max_examples=15, deadline=None)
@given(LENGTHS)
def test_batch_equals_alone(any_codec: Codec, lengths: list[int]) -> None:
    waves = [noise(length, seed) for seed, length in enumerate(lengths)]
    together = any_codec.encode(waves)
    alone = [any_codec.encode([wave])[0] for wave in waves]
    for a, b in zip(together, alone, strict=True):
        _same(a, b)
    for audio, codes in zip(any_codec.decode(together), alone, strict=True):
        assert np.abs(audio - any_codec.decode([codes])[0]).max() <= 1e-5


@pytest.mark.parametrize("config", [TINY, TINY_ATTENTION], ids=["24khz", "32khz"])
@torch.inference_mode()
def test_one_masked_batch_equals_each_alone(config: SnacConfig) -> None:
    """The padded batch that a GPU computes; a CPU takes windows one by one."""
    model = random_model(config).eval().fold()
    unit = config.pad_multiple
    lengths = [unit, 5 * unit, 2 * unit, 3 * unit]
    waves = [torch.from_numpy(noise(length, length)) for length in lengths]
    batch = torch.zeros(len(waves), 1, max(lengths))
    for row, wave in zip(batch, waves, strict=True):
        row[0, : len(wave)] = wave
    own, seeds = torch.tensor(lengths), torch.arange(len(waves))
    starts = 1000 * unit * seeds
    codes = model.encode(batch, BatchContext(max(lengths), own))
    audio = model.decode(codes, BatchContext(max(lengths), own, Noise(seeds, starts)))
    changed = 0
    for row, wave in enumerate(waves):
        alone = model.encode(wave[None, None])
        for level, alone_level in zip(codes, alone, strict=True):
            own = level[row, : alone_level.shape[1]]
            changed += int((own != alone_level[0]).sum())
        context = BatchContext(len(wave), noise=Noise(seeds[row : row + 1], starts[row : row + 1]))
        difference = audio[row, 0, : len(wave)] - model.decode(alone, context)[0, 0]
        assert difference.abs().max() <= 1e-5
    assert changed == 0


def test_padding_without_a_mask_would_change_codes() -> None:
    """The mask is needed: this is what the tests above would miss without it."""
    model = random_model(TINY).eval().fold()
    with torch.inference_mode():
        wave = torch.from_numpy(noise(2048))[None, None]
        padded = torch.nn.functional.pad(wave, (0, 8 * 2048))
        alone, together = model.encode(wave), model.encode(padded)
    assert any((a != b[:, : a.shape[1]]).any() for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("config", [TINY, TINY_ATTENTION], ids=["24khz", "32khz"])
@pytest.mark.parametrize("seconds", [0.5, 1.3])
def test_windows_equal_the_whole(config: SnacConfig, seconds: float) -> None:
    whole = random_codec(config, window_seconds=1e9)
    windowed = random_codec(config, window_seconds=seconds)
    wave = noise(round(9.37 * config.sampling_rate))
    assert len(windowed.encode_job(wave).steps) > 2
    (expected,), (codes,) = whole.encode([wave]), windowed.encode([wave])
    _same(expected, codes)
    (expected_audio,) = whole.decode([codes], seed=7)
    (audio,) = windowed.decode([codes], seed=7)
    assert np.abs(audio - expected_audio).max() <= 1e-5


def test_noise_is_decided_by_the_seed_and_can_be_off(tiny_codec: Codec) -> None:
    (codes,) = tiny_codec.encode([noise(24000)])
    first, again = tiny_codec.decode([codes, codes], seed=3)
    (other,) = tiny_codec.decode([codes], seed=4)
    (off,) = tiny_codec.decode([codes], noise="off")
    torch.manual_seed(99)
    (later,) = tiny_codec.decode([codes], seed=3)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, later)
    assert np.abs(first - other).max() > 1e-6
    assert np.abs(first - off).max() > 1e-6


def test_noise_is_normal_and_white() -> None:
    draw = Noise(torch.tensor([5]), torch.tensor([0])).normal(0, 1, 200_000)[0, 0].double()
    assert abs(float(draw.mean())) < 0.01
    assert abs(float(draw.std()) - 1) < 0.01
    assert abs(float((draw**4).mean()) - 3) < 0.1
    spectrum = torch.fft.rfft(draw).abs()[1:]
    assert float(spectrum.max() / spectrum.mean()) < 6
    other_block = Noise(torch.tensor([5]), torch.tensor([0])).normal(1, 1, 200_000)[0, 0]
    assert abs(float((draw * other_block).mean())) < 0.01


def test_steps_of_many_jobs_run_in_any_order(tiny_codec: Codec) -> None:
    codec = random_codec(TINY, window_seconds=0.5)
    waves = [noise(100_000, 1), noise(70_000, 2)]
    jobs = [codec.encode_job(wave) for wave in waves]
    steps = [step for job in jobs for step in job.steps]
    with pytest.raises(RuntimeError, match="have not run"):
        jobs[0].result()
    for step in np.random.default_rng(0).permutation(len(steps)):
        codec.run([steps[step]])
    for job, expected in zip(jobs, codec.encode(waves), strict=True):
        _same(job.result(), expected)


def test_a_micro_batch_of_both_kinds_is_refused(tiny_codec: Codec) -> None:
    encode = tiny_codec.encode_job(noise(3000))
    (codes,) = tiny_codec.encode([noise(3000)])
    with pytest.raises(ValueError, match="not both"):
        tiny_codec.run(encode.steps + tiny_codec.decode_job(codes).steps)


def test_unusable_input_is_refused(any_codec: Codec) -> None:
    with pytest.raises(AudioError):
        any_codec.encode([np.zeros(0, np.float32)])
    with pytest.raises(AudioError):
        any_codec.encode([np.array([0.0, np.nan], np.float32)])
    (codes,) = any_codec.encode([noise(20_000)])
    levels = [level.copy() for level in codes.levels]
    levels[1][1] = 4096
    bad = Codes(tuple(levels), codes.num_samples, codes.sample_rate)
    with pytest.raises(CodesError, match=r"level 1.*index 1.*4096.*4095"):
        any_codec.decode([bad])
    with pytest.raises(ValueError, match="noise"):
        any_codec.decode([codes], noise="loud")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="64 bits"):
        any_codec.decode([codes], seed=2**63)


def test_an_attention_model_needs_whole_attention_windows() -> None:
    codec = random_codec(TINY_ATTENTION)
    one_frame = tuple(np.zeros(n, np.int32) for n in TINY_ATTENTION.codes_per_frame)
    with pytest.raises(CodesError, match="multiple of 4"):
        codec.decode([Codes(one_frame, 100, 32000)])


def test_memory_does_not_grow_with_length() -> None:
    def peak_mib(seconds: int) -> int:
        command = [sys.executable, "-m", "tests.snac_core.memory_probe", str(seconds)]
        ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return int(ended.stdout)

    # Twelve times the audio, of which a single signal of eight channels takes 92 MiB.
    assert peak_mib(120) <= peak_mib(10) + 16
