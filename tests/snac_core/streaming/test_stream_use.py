"""How streams are used: when audio leaves, lookahead, memory, threads and errors."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from snac_core.codec import Codec
from snac_core.errors import AudioError, CodesError
from snac_core.streaming import StreamingDecoder, StreamingEncoder, lookahead
from tests.snac_core.streaming.clips import decoded, frames_of, random_levels
from tests.support.models import TINY, TINY_ATTENTION, noise, random_codec


def test_audio_leaves_as_soon_as_it_is_exact(tiny_codec: Codec) -> None:
    levels = random_levels(TINY, 8)
    decoder = StreamingDecoder(tiny_codec)
    given = 0
    for frame in range(8):
        given += len(decoder.feed(frames_of(TINY, levels, frame, frame + 1)))
        assert given == max(0, (frame + 1) * TINY.frame_samples - lookahead(TINY))


@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_a_step_costs_what_its_audio_costs_at_once(direction: str) -> None:
    """Counted, not timed; windows with 3 + 3 frames of context would cost 7 times as much."""
    levels, wave = random_levels(TINY, 8), noise(8 * TINY.frame_samples)
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
            decoded(written, levels)
        else:
            written.encode([wave])
    # The quantizer's rows of a short step, which it pads, are a part of so small a model.
    assert 0 < steps.get_total_flops() <= 1.1 * whole.get_total_flops()


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_less_lookahead_gives_what_the_codes_so_far_give(codec: Codec, frames: int) -> None:
    config = codec.config
    levels = random_levels(config, 4)
    unit = config.pad_multiple // config.frame_samples
    ahead = min(frames * config.frame_samples, lookahead(config))
    decoder = StreamingDecoder(codec, seed=4, lookahead_frames=frames)
    given = 0
    for step in range(4):
        part = decoder.feed(frames_of(config, levels, step * unit, (step + 1) * unit))
        due = max(0, (step + 1) * config.pad_multiple - ahead)
        so_far = decoded(codec, frames_of(config, levels, 0, (step + 1) * unit), seed=4)
        assert len(part) == due - given
        assert np.abs(part - so_far[given:due]).max(initial=0) <= 1e-5
        given = due
    rest = decoder.flush()
    assert np.abs(rest - decoded(codec, levels, seed=4)[given:]).max(initial=0) <= 1e-5


def test_lookahead_of_enough_frames_is_exact(tiny_codec: Codec) -> None:
    levels = random_levels(TINY, 5)
    decoder = StreamingDecoder(tiny_codec, lookahead_frames=3)
    parts = [decoder.feed(levels), decoder.flush()]
    assert np.abs(np.concatenate(parts) - decoded(tiny_codec, levels)).max() <= 1e-5


def test_streams_of_any_lookahead_share_a_batch(tiny_codec: Codec) -> None:
    levels = random_levels(TINY, 4)
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
    levels = random_levels(TINY, 3)
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
    assert np.abs(decoder.pull() - decoded(tiny_codec, levels)).max() <= 1e-5


def test_rows_of_memory_are_used_again_and_never_mixed_up() -> None:
    codec = random_codec(TINY)
    levels = random_levels(TINY, 2)
    expected = decoded(codec, levels)
    # Grows while streams are under way.
    decoders = []
    for _ in range(6):
        decoders.append(StreamingDecoder(codec))
        decoders[-1].feed(frames_of(TINY, levels, 0, 1))
    pool = decoders[0].network.pool
    capacity = pool.capacity
    assert 6 <= capacity <= 12
    for decoder in decoders:
        parts = [decoder.feed(frames_of(TINY, levels, 1, 2)), decoder.flush()]
        assert np.abs(np.concatenate(parts) - expected).max() <= 1e-5
    # Rows that hold the remains of other clips, some of them abandoned.
    for _ in range(2 * capacity):
        decoder = StreamingDecoder(codec)
        decoder.feed(frames_of(TINY, levels, 1, 2))
    del decoder
    gc.collect()
    fresh = StreamingDecoder(codec)
    fresh.push(levels)
    assert np.abs(fresh.flush() - expected).max() <= 1e-5
    assert pool.capacity == capacity


def test_one_thread_feeds_while_another_runs() -> None:
    codec = random_codec(TINY)
    levels = random_levels(TINY, 20)
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
        decoder.push(frames_of(TINY, levels, frame, frame + 1))
        parts.append(decoder.pull())
    decoder.close()
    worker.join(timeout=60)
    assert not worker.is_alive()
    assert not failures
    parts.append(decoder.pull())
    assert np.abs(np.concatenate(parts) - decoded(codec, levels)).max() <= 1e-5


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
    levels = random_levels(TINY, 3)
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
    assert np.abs(rest - decoded(tiny_codec, twice)[len(given) : len(given) + 1]).max() <= 1e-5
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
    decoder.push(frames_of(TINY_ATTENTION, random_levels(TINY_ATTENTION, 2), 0, 5))
    with pytest.raises(CodesError, match=r"5 coarse frames.*multiple of 4"):
        decoder.close()


def test_kinds_of_steps_do_not_mix(tiny_codec: Codec) -> None:
    decoder, encoder = StreamingDecoder(tiny_codec), StreamingEncoder(tiny_codec)
    decoder.push(random_levels(TINY, 1))
    encoder.push(noise(2048))
    first, second = decoder.take_step(), encoder.take_step()
    assert first is not None
    assert second is not None
    assert (first.kind, second.kind) == ("stream-decode", "stream-encode")
    assert first.seconds == second.seconds == 2048 / 24000
    with pytest.raises(ValueError, match="not both stream-decode and stream-encode"):
        tiny_codec.run([*first.steps, *second.steps])
