"""A stream gives what the whole clip gives, however it comes and whoever shares its batches."""

from __future__ import annotations

import io
import itertools

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_core import audio
from snac_core.codec import Codec
from snac_core.config import SNAC_24KHZ, SNAC_32KHZ
from snac_core.inference.windows import receptive_radius
from snac_core.streaming import StreamingDecoder, StreamingEncoder, lookahead
from snac_core.types import NoiseMode
from tests.snac_core.streaming.clips import FOUR_LEVELS, decoded, frames_of, random_levels
from tests.support.models import TINY, noise


def _cuts(draw: st.DrawFn, length: int) -> list[tuple[int, int]]:
    """Cut ``length`` into pieces, from all in one to one by one."""
    inner = draw(st.sets(st.integers(1, length - 1), max_size=12)) if length > 1 else set()
    edges = [0, *sorted(inner), length]
    return list(itertools.pairwise(edges))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_decoded_stream_equals_the_whole(codec: Codec, data: st.DataObject) -> None:
    config = codec.config
    levels = random_levels(config, data.draw(st.integers(1, 6)), data.draw(st.integers(0, 9)))
    mode: NoiseMode = data.draw(st.sampled_from(["seeded", "off"]))
    seed = data.draw(st.integers(-(2**63), 2**63 - 1))
    frames = len(levels[0]) // config.codes_per_frame[0]
    decoder = StreamingDecoder(codec, mode, seed)
    parts = [
        decoder.feed(frames_of(config, levels, first, last))
        for first, last in data.draw(st.composite(_cuts)(frames))
    ]
    # The last step's codes hold the end of the clip.
    capacity = frames * config.frame_samples
    samples = data.draw(st.integers(capacity - config.pad_multiple + 1, capacity))
    parts.append(decoder.flush(samples))
    expected = decoded(codec, levels, mode, seed, samples)
    whole = np.concatenate(parts)
    assert whole.dtype == np.float32
    assert whole.shape == expected.shape
    assert np.abs(whole - expected).max() <= 1e-5
    assert decoder.done
    assert not len(decoder.pull())


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_encoded_stream_equals_the_whole(codec: Codec, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 5 * codec.config.pad_multiple))
    wave = noise(length, data.draw(st.integers(0, 9)))
    encoder = StreamingEncoder(codec)
    parts = [
        encoder.feed(wave[first:last]) for first, last in data.draw(st.composite(_cuts)(length))
    ]
    parts.append(encoder.flush())
    (expected,) = codec.encode([wave])
    for level, codes in enumerate(expected.levels):
        np.testing.assert_array_equal(np.concatenate([part[level] for part in parts]), codes)
    assert all(len(part[0]) % codec.config.codes_per_frame[0] == 0 for part in parts)
    assert encoder.num_samples == length
    assert encoder.done


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_streams_that_share_batches_equal_each_alone(codec: Codec, data: st.DataObject) -> None:
    """Streams start, end and pause as they like, so that every phase meets every other."""
    config = codec.config
    clips = [
        random_levels(config, units, seed)
        for seed, units in enumerate(data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=4)))
    ]
    modes: list[NoiseMode] = ["off" if index % 3 == 1 else "seeded" for index in range(len(clips))]
    decoders: list[StreamingDecoder | None] = [None] * len(clips)
    parts: list[list[npt.NDArray[np.float32]]] = [[] for _ in clips]
    waiting = set(range(len(clips)))
    while waiting:
        chosen = data.draw(st.sets(st.sampled_from(sorted(waiting)), min_size=1))
        steps = []
        for index in chosen:
            decoder = decoders[index]
            if decoder is None:
                decoders[index] = decoder = StreamingDecoder(codec, modes[index], index)
                decoder.push(clips[index])
                decoder.close()
            job = decoder.take_step()
            assert job is not None
            assert decoder.take_step() is None, "the one before has not run"
            steps += job.steps
        codec.run(steps)
        for index in chosen:
            decoder = decoders[index]
            assert decoder is not None
            parts[index].append(decoder.pull())
            if decoder.done:
                waiting.remove(index)
    for index, levels in enumerate(clips):
        expected = decoded(codec, levels, modes[index], index)
        assert np.abs(np.concatenate(parts[index]) - expected).max() <= 1e-5


def test_encoders_that_share_batches_equal_each_alone(codec: Codec) -> None:
    unit = codec.config.pad_multiple
    waves = [noise(length, length) for length in (1, unit, 2 * unit + 1, 4 * unit - 1)]
    encoders = [StreamingEncoder(codec) for _ in waves]
    for turn in range(100):
        for encoder, wave in zip(encoders, waves, strict=True):
            if not encoder.closed:
                encoder.push(wave[turn * 1000 : (turn + 1) * 1000])
                if (turn + 1) * 1000 >= len(wave):
                    encoder.close()
        jobs = [encoder.take_step() for encoder in encoders]
        codec.run([job.steps[0] for job in jobs if job is not None])
    assert all(encoder.done for encoder in encoders)
    for encoder, expected in zip(encoders, codec.encode(waves), strict=True):
        for level, codes in zip(encoder.pull(), expected.levels, strict=True):
            np.testing.assert_array_equal(level, codes)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_samples_at_another_rate_are_resampled_as_a_file_is(tiny_codec: Codec, rate: int) -> None:
    wave = noise(rate // 2 + 7)
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="FLOAT")
    (expected,) = tiny_codec.encode([audio.read(file.getvalue(), tiny_codec.sample_rate)])
    encoder = StreamingEncoder(tiny_codec, rate)
    parts = [encoder.feed(wave[first : first + 441]) for first in range(0, len(wave), 441)]
    parts.append(encoder.flush())
    assert encoder.num_samples == expected.num_samples
    for level, codes in enumerate(expected.levels):
        np.testing.assert_array_equal(np.concatenate([part[level] for part in parts]), codes)


def test_lookahead_is_that_of_the_layers() -> None:
    assert lookahead(SNAC_24KHZ) == lookahead(TINY) == 4757
    assert lookahead(SNAC_24KHZ, "encode") == 3 * SNAC_24KHZ.frame_samples
    for config in (TINY, FOUR_LEVELS):
        assert lookahead(config) == receptive_radius(config)
    # A whole attention window must be there, and then the layers that follow it.
    assert lookahead(SNAC_32KHZ) == 32 * SNAC_32KHZ.hop + receptive_radius(SNAC_32KHZ) - 3 * 384
