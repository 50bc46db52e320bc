"""The optional decoder: what phones and browsers record, and files made to escape it."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from snac_core import audio
from snac_core.audio import media
from snac_core.errors import AudioError, AudioTooLongError
from snac_core.utils.incremental import run_to_end
from tests.snac_core.audio.files import noise, tone

av = pytest.importorskip("av", reason="the extra `media` is not installed")

KINDS = [("mp4", "aac", 44100), ("adts", "aac", 44100), ("matroska", "libopus", 48000)]


def recording(
    container: str, codec: str, rate: int, sound: npt.NDArray[np.float32] | None = None
) -> bytes:
    memory = io.BytesIO()
    with av.open(memory, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        wave = tone(2 * rate, rate) if sound is None else sound
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or None
        )
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            file.mux(stream.encode(part))
    return memory.getvalue()


@pytest.fixture(scope="module")
def m4a() -> bytes:
    return recording("mp4", "aac", 44100)


@pytest.mark.parametrize(("container", "codec", "rate"), KINDS)
def test_what_phones_and_browsers_record(container: str, codec: str, rate: int) -> None:
    samples = audio.read(recording(container, codec, rate), 24000)
    # Encoders fill their last frames.
    assert 48_000 <= len(samples) < 48_000 + 3 * 1024
    assert np.abs(samples[10_000:30_000]).max() == pytest.approx(0.3, abs=0.03)


def test_a_length_that_is_only_guessed_from_the_bitrate_refuses_nothing() -> None:
    """FFmpeg takes an AAC without a container for as long as its first frames' bitrate says."""
    sound = np.concatenate([np.zeros(5 * 44100, np.float32), noise(5 * 44100)])
    samples = audio.read(recording("adts", "aac", 44100, sound), 24000)
    assert 240_000 <= len(samples) < 240_000 + 3 * 1024


def test_the_memory_of_its_process_is_asked_for_and_given_back(m4a: bytes) -> None:
    held: list[int] = []
    run_to_end(audio.read_incremental(m4a, 24000, hold=held.append))
    assert held == [media.MEMORY_BYTES, -media.MEMORY_BYTES]

    def refuse(more: int) -> None:
        raise MemoryError(more)

    with pytest.raises(MemoryError):
        run_to_end(audio.read_incremental(m4a, 24000, hold=refuse))


def test_without_it_the_message_says_how_to_convert(
    m4a: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "available", lambda: False)
    with pytest.raises(AudioError, match=r"MP4 or M4A is not read; convert it: ffmpeg -i "):
        audio.read(m4a, 24000)


def test_the_longest_allowed_is_enforced(m4a: bytes) -> None:
    with pytest.raises(AudioTooLongError, match="lasts at least"):
        audio.read(m4a, 24000, max_seconds=1.0)


def test_a_file_that_was_cut_is_refused(m4a: bytes) -> None:
    with pytest.raises(AudioError, match="MP4 or M4A"):
        audio.read(m4a[: len(m4a) // 2], 24000)


@pytest.mark.parametrize("magic", [b"ffconcat version 1.0\n", b"#EXTM3U\n"])
def test_lists_of_files_are_never_opened(magic: bytes, tmp_path: Path) -> None:
    inner = tmp_path / "inner.wav"
    audio.write(inner, tone(5000), 24000)
    for body in (magic + f"file '{inner}'\n".encode(), magic + f"{inner}\n".encode()):
        with pytest.raises(AudioError, match="which holds no sound, is not read"):
            audio.read(body, 24000)


def test_damaged_files_end_in_an_answer(m4a: bytes) -> None:
    chance = random.Random(0)
    for _ in range(6):
        broken = bytearray(m4a)
        for _ in range(20):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            samples = audio.read(bytes(broken), 24000, max_seconds=60)
        except AudioError:
            continue
        assert np.isfinite(samples).all()


def test_an_abandoned_recording_ends_its_process(m4a: bytes) -> None:
    reading: Any = audio.read_incremental(m4a, 24000)
    next(reading)
    sound = reading.gi_frame.f_locals["sound"]
    child = sound._decoder._child
    reading.close()
    assert child.returncode is not None


def test_a_decoder_that_only_asks_and_never_answers_is_ended(
    m4a: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = tmp_path / "asks.py"
    child.write_text("while True:\n    print('{\"read\": [0, 32768]}', flush=True)\n")
    monkeypatch.setattr(media, "_CHILD", child)
    monkeypatch.setattr(media, "STALLED_SECONDS", 0.5)
    with pytest.raises(AudioError, match="the decoder ended \\(signal SIGKILL\\)"):
        audio.read(m4a, 24000)
