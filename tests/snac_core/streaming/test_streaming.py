"""A stream gives what the whole clip gives, however it comes and whoever shares its batches."""

from __future__ import annotations

import gc
import io
import itertools
import threading
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from snac_core import audio
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.config import SNAC_24KHZ, SNAC_32KHZ, SnacConfig
from snac_core.errors import AudioError, CodesError
from snac_core.inference.windows import receptive_radius
from snac_core.streaming import StreamingDecoder, StreamingEncoder, lookahead
from snac_core.types import NoiseMode
from tests.conftest import TINY, TINY_ATTENTION, noise, random_codec

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


# Some also as a machine without compiled kernels runs them.
WAYS = [(name, "auto") for name in CONFIGS] + [("24khz", "off"), ("narrow-attention", "off")]


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def codec(request: pytest.FixtureRequest) -> Codec:
    name, compile = request.param
    return random_codec(CONFIGS[name], compile=compile)


def _random_levels(config: SnacConfig, units: int, seed: int = 0) -> Levels:
    """Return the codes of ``units`` times what a stream works through in one step."""
    random = np.random.default_rng(seed)
    frames = units * config.pad_multiple // config.frame_samples
    return [
        random.integers(0, config.codebook_size, frames * count).astype(np.int32)
        for count in config.codes_per_frame
    ]


def _frames(config: SnacConfig, levels: Levels, first: int, last: int) -> Levels:
    return [
        level[first * count : last * count]
        for level, count in zip(levels, config.codes_per_frame, strict=True)
    ]


def _cuts(draw: st.DrawFn, length: int) -> list[tuple[int, int]]:
    """Cut ``length`` into pieces, from all in one to one by one."""
    inner = draw(st.sets(st.integers(1, length - 1), max_size=12)) if length > 1 else set()
    edges = [0, *sorted(inner), length]
    return list(itertools.pairwise(edges))


def _decoded(
    codec: Codec, levels: Levels, noise: NoiseMode = "seeded", seed: int = 0, samples: int = 0
) -> npt.NDArray[np.float32]:
    capacity = len(levels[0]) // codec.config.codes_per_frame[0] * codec.config.frame_samples
    codes = Codes(tuple(levels), samples or capacity, codec.sample_rate)
    return codec.decode([codes], noise, seed)[0]


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_decoded_stream_equals_the_whole(codec: Codec, data: st.DataObject) -> None:
    config = codec.config
    levels = _random_levels(config, data.draw(st.integers(1, 6)), data.draw(st.integers(0, 9)))
    mode: NoiseMode = data.draw(st.sampled_from(["seeded", "off"]))
    seed = data.draw(st.integers(-(2**63), 2**63 - 1))
    frames = len(levels[0]) // config.codes_per_frame[0]
    decoder = StreamingDecoder(codec, mode, seed)
    parts = [
        decoder.feed(_frames(config, levels, first, last))
        for first, last in data.draw(st.composite(_cuts)(frames))
    ]
    # The last step's codes hold the end of the clip.
    capacity = frames * config.frame_samples
    samples = data.draw(st.integers(capacity - config.pad_multiple + 1, capacity))
    parts.append(decoder.flush(samples))
    expected = _decoded(codec, levels, mode, seed, samples)
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
        _random_levels(config, units, seed)
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
        expected = _decoded(codec, levels, modes[index], index)
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


def test_audio_leaves_as_soon_as_it_is_exact(tiny_codec: Codec) -> None:
    levels = _random_levels(TINY, 8)
    decoder = StreamingDecoder(tiny_codec)
    given = 0
    for frame in range(8):
        given += len(decoder.feed(_frames(TINY, levels, frame, frame + 1)))
        assert given == max(0, (frame + 1) * TINY.frame_samples - lookahead(TINY))


@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_a_step_costs_what_its_audio_costs_at_once(direction: str) -> None:
    """Counted, not timed; windows with 3 + 3 frames of context would cost 7 times as much."""
    levels, wave = _random_levels(TINY, 8), noise(8 * TINY.frame_samples)
    # Only what torch itself computes is counted.
    written = random_codec(TINY, compile="off")
    stream: StreamingDecoder | StreamingEncoder
    if direction == "decode":
        stream = decoder = StreamingDecoder(written)
        decoder.push(levels)
    else:
        stream = encoder = StreamingEncoder(written)
        encoder.push(wave)
    with FlopCounterMode(display=False) as steps:
        while (job := stream.take_step()) is not None:
            written.run(job.steps)
    with FlopCounterMode(display=False) as whole:
        if direction == "decode":
            _decoded(written, levels)
        else:
            written.encode([wave])
    assert 0 < steps.get_total_flops() <= 1.05 * whole.get_total_flops()


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_less_lookahead_gives_what_the_codes_so_far_give(codec: Codec, frames: int) -> None:
    config = codec.config
    levels = _random_levels(config, 4)
    unit = config.pad_multiple // config.frame_samples
    ahead = min(frames * config.frame_samples, lookahead(config))
    decoder = StreamingDecoder(codec, seed=4, lookahead_frames=frames)
    given = 0
    for step in range(4):
        part = decoder.feed(_frames(config, levels, step * unit, (step + 1) * unit))
        due = max(0, (step + 1) * config.pad_multiple - ahead)
        so_far = _decoded(codec, _frames(config, levels, 0, (step + 1) * unit), seed=4)
        assert len(part) == due - given
        assert np.abs(part - so_far[given:due]).max(initial=0) <= 1e-5
        given = due
    rest = decoder.flush()
    assert np.abs(rest - _decoded(codec, levels, seed=4)[given:]).max(initial=0) <= 1e-5


def test_lookahead_of_enough_frames_is_exact(tiny_codec: Codec) -> None:
    levels = _random_levels(TINY, 5)
    decoder = StreamingDecoder(tiny_codec, lookahead_frames=3)
    parts = [decoder.feed(levels), decoder.flush()]
    assert np.abs(np.concatenate(parts) - _decoded(tiny_codec, levels)).max() <= 1e-5


def test_streams_of_any_lookahead_share_a_batch(tiny_codec: Codec) -> None:
    levels = _random_levels(TINY, 4)
    decoders = [
        StreamingDecoder(tiny_codec, seed=seed, lookahead_frames=frames)
        for seed, frames in enumerate([None, 0, 2, 0, None])
    ]
    alone = []
    for decoder in decoders:
        decoder.push(levels)
        twin = StreamingDecoder(
            tiny_codec, seed=decoder.seed, lookahead_frames=decoder.lookahead_frames
        )
        alone.append(twin.feed(levels))
    for _ in range(4):
        jobs = [decoder.take_step() for decoder in decoders]
        tiny_codec.run([step for job in jobs if job is not None for step in job.steps])
    for decoder, expected in zip(decoders, alone, strict=True):
        assert np.abs(decoder.pull() - expected).max() <= 1e-5


def test_a_failed_step_leaves_no_trace_and_may_run_again(tiny_codec: Codec) -> None:
    levels = _random_levels(TINY, 3)
    foreign = StreamingDecoder(random_codec(TINY, seed=1))
    foreign.push(levels)
    decoder = StreamingDecoder(tiny_codec)
    decoder.push(levels)
    decoder.close()
    other = foreign.take_step()
    assert other is not None
    while (job := decoder.take_step()) is not None:
        with pytest.raises(ValueError, match="made for"):
            tiny_codec.run([*job.steps, *other.steps])
        with pytest.raises(ValueError, match="one after the other"):
            tiny_codec.run([*job.steps, *job.steps])
        assert not job.done
        tiny_codec.run(job.steps)
        assert job.done
        with pytest.raises(ValueError, match="each once"):
            tiny_codec.run(job.steps)
    assert np.abs(decoder.pull() - _decoded(tiny_codec, levels)).max() <= 1e-5


def test_rows_of_memory_are_used_again_and_never_mixed_up() -> None:
    codec = random_codec(TINY)
    levels = _random_levels(TINY, 2)
    expected = _decoded(codec, levels)
    # Grows while streams are under way.
    decoders = []
    for _ in range(6):
        decoders.append(StreamingDecoder(codec))
        decoders[-1].feed(_frames(TINY, levels, 0, 1))
    pool = decoders[0].network.pool
    capacity = pool.capacity
    assert 6 <= capacity <= 12
    for decoder in decoders:
        parts = [decoder.feed(_frames(TINY, levels, 1, 2)), decoder.flush()]
        assert np.abs(np.concatenate(parts) - expected).max() <= 1e-5
    # Rows that hold the remains of other clips, some of them abandoned.
    for _ in range(2 * capacity):
        decoder = StreamingDecoder(codec)
        decoder.feed(_frames(TINY, levels, 1, 2))
    del decoder
    gc.collect()
    fresh = StreamingDecoder(codec)
    fresh.push(levels)
    assert np.abs(fresh.flush() - expected).max() <= 1e-5
    assert pool.capacity == capacity


def test_one_thread_feeds_while_another_runs() -> None:
    codec = random_codec(TINY)
    levels = _random_levels(TINY, 20)
    decoder = StreamingDecoder(codec)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            deadline = time.monotonic() + 300
            while not decoder.done:
                assert time.monotonic() < deadline, "it was not done within 300 s"
                job = decoder.take_step()
                if job is not None:
                    codec.run(job.steps)
        except BaseException as error:
            failures.append(error)
            raise

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    parts = []
    for frame in range(20):
        decoder.push(_frames(TINY, levels, frame, frame + 1))
        parts.append(decoder.pull())
    decoder.close()
    worker.join(timeout=60)
    assert not worker.is_alive()
    assert not failures
    parts.append(decoder.pull())
    assert np.abs(np.concatenate(parts) - _decoded(codec, levels)).max() <= 1e-5


def test_a_stream_of_nothing_gives_nothing(codec: Codec) -> None:
    decoder, encoder = StreamingDecoder(codec), StreamingEncoder(codec, 48000)
    assert decoder.flush().shape == (0,)
    assert [part.shape for part in encoder.flush()] == [(0,)] * len(codec.config.vq_strides)
    assert decoder.done
    assert encoder.done
    assert encoder.num_samples == 0
    assert decoder.take_step() is None
    assert encoder.take_step() is None


def test_unusable_input_is_refused_and_the_stream_goes_on(tiny_codec: Codec) -> None:
    levels = _random_levels(TINY, 3)
    decoder = StreamingDecoder(tiny_codec)
    bad = [level.copy() for level in levels]
    bad[1][1] = 4096
    with pytest.raises(CodesError, match=r"level 1.*index 1.*4096.*4095"):
        decoder.push(bad)
    with pytest.raises(CodesError, match="lengths of the levels"):
        decoder.push([levels[0], levels[1], levels[2][:-1]])
    decoder.push(levels)
    with pytest.raises(CodesError, match=r"num_samples 6145 is outside 1\.\.6144"):
        decoder.close(6145)
    given = decoder.feed(levels)
    with pytest.raises(CodesError, match=rf"num_samples 5 is outside {len(given)}\.\.12288"):
        decoder.close(5)
    twice = [np.concatenate((level, level)) for level in levels]
    rest = decoder.flush(len(given) + 1)
    assert np.abs(rest - _decoded(tiny_codec, twice)[len(given) : len(given) + 1]).max() <= 1e-5
    with pytest.raises(RuntimeError, match="closed"):
        decoder.push(levels)
    with pytest.raises(RuntimeError, match="closed"):
        decoder.close()

    encoder = StreamingEncoder(tiny_codec)
    with pytest.raises(AudioError, match="sample 1 is nan"):
        encoder.push(np.array([0.0, np.nan], np.float32))
    with pytest.raises(AudioError, match="floats"):
        encoder.push(np.zeros(3, np.int16))
    encoder.push(np.zeros(0, np.float32))
    encoder.push(noise(3000))
    encoder.close()
    assert encoder.num_samples == 3000
    with pytest.raises(RuntimeError, match="closed"):
        encoder.push(noise(1))


def test_unusable_settings_are_refused(tiny_codec: Codec) -> None:
    with pytest.raises(ValueError, match="noise"):
        StreamingDecoder(tiny_codec, noise="loud")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="64 bits"):
        StreamingDecoder(tiny_codec, seed=2**63)
    with pytest.raises(ValueError, match="at least 0, not -1"):
        StreamingDecoder(tiny_codec, lookahead_frames=-1)
    with pytest.raises(AudioError, match="sample rate of 10 Hz"):
        StreamingEncoder(tiny_codec, 10)


def test_an_attention_model_needs_whole_attention_windows() -> None:
    codec = random_codec(TINY_ATTENTION)
    decoder = StreamingDecoder(codec)
    decoder.push(_frames(TINY_ATTENTION, _random_levels(TINY_ATTENTION, 2), 0, 5))
    with pytest.raises(CodesError, match=r"5 coarse frames.*multiple of 4"):
        decoder.close()


def test_kinds_of_steps_do_not_mix(tiny_codec: Codec) -> None:
    decoder, encoder = StreamingDecoder(tiny_codec), StreamingEncoder(tiny_codec)
    decoder.push(_random_levels(TINY, 1))
    encoder.push(noise(2048))
    first, second = decoder.take_step(), encoder.take_step()
    assert first is not None
    assert second is not None
    assert (first.kind, second.kind) == ("stream-decode", "stream-encode")
    assert first.seconds == second.seconds == 2048 / 24000
    with pytest.raises(ValueError, match="not both stream-decode and stream-encode"):
        tiny_codec.run([*first.steps, *second.steps])
