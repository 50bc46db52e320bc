from __future__ import annotations

import io
import math
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_core import audio
from snac_core.audio import AudioFormat, source
from snac_core.errors import AudioError, AudioTooLongError

RATE = 24000
LOSSLESS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16"), ("CAF", "ALAC_16")]
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
CONTAINERS = LOSSLESS + LOSSY


def tone(samples: int, rate: int = RATE, hz: float = 440.0) -> npt.NDArray[np.float32]:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(samples) / rate)).astype(np.float32)


def noise(samples: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def file_of(
    samples: npt.NDArray[Any], rate: int = RATE, format: str = "WAV", subtype: str = "PCM_16"
) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, samples, rate, format=format, subtype=subtype)
    return memory.getvalue()


def patched(data: bytes, offset: int, layout: str, value: int) -> bytes:
    field = struct.pack(layout, value)
    return data[:offset] + field + data[offset + len(field) :]


@pytest.mark.parametrize(("format", "subtype"), CONTAINERS)
def test_every_container_is_read(format: str, subtype: str) -> None:
    wave = tone(RATE)
    samples = audio.read(file_of(wave, RATE, format, subtype), RATE)
    assert samples.dtype == np.float32
    assert samples.shape == wave.shape
    if (format, subtype) in LOSSLESS:
        assert np.abs(samples - wave).max() < 1e-4
    else:
        assert np.corrcoef(samples, wave)[0, 1] > 0.98


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("target", [24000, 44100])
def test_every_rate_is_resampled(rate: int, target: int) -> None:
    samples = audio.read(file_of(tone(rate, rate), rate), target)
    assert len(samples) == target
    middle = slice(target // 10, -target // 10)
    assert np.abs(samples - tone(target, target))[middle].max() < 2e-3


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 5000), rate=st.integers(1000, 200_000))
def test_the_length_is_rounded_half_up(frames: int, rate: int) -> None:
    expected = math.floor(frames * RATE / rate + 0.5)
    data = file_of(noise(frames), rate)
    if expected:
        assert len(audio.read(data, RATE)) == expected
    else:
        with pytest.raises(AudioError, match="there are no samples"):
            audio.read(data, RATE)


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 64])
def test_channels_are_averaged(channels: int) -> None:
    wave = np.stack([noise(5000, seed) for seed in range(channels)], axis=1)
    samples = audio.read(file_of(wave, subtype="FLOAT"), RATE)
    assert np.allclose(samples, wave.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(("format", "subtype"), CONTAINERS)
@pytest.mark.parametrize("rate", [24000, 44100])
def test_blocks_make_no_difference(
    format: str, subtype: str, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subtype == "OPUS":
        rate = 48000
    data = file_of(np.stack([noise(30_000), noise(30_000, 1)], axis=1), rate, format, subtype)
    whole = audio.read(data, RATE)
    reference = soxr.resample(soundfile.read(io.BytesIO(data), dtype="float32")[0], rate, RATE)
    assert np.allclose(whole, reference.mean(axis=1), atol=1e-6)
    for block in (1000, 2**14):
        monkeypatch.setattr(source, "BLOCK_SAMPLES", block)
        assert np.array_equal(audio.read(data, RATE), whole)


def test_bytes_files_paths_and_pipes_read_the_same(tmp_path: Path) -> None:
    data = file_of(noise(50_000), 44100, "FLAC")
    path = tmp_path / "clip.raw"
    path.write_bytes(data)
    expected = audio.read(data, RATE)
    opened = io.BytesIO(data)
    opened.seek(100)
    assert np.array_equal(audio.read(path, RATE), expected)
    assert np.array_equal(audio.read(str(path), RATE), expected)
    assert np.array_equal(audio.read(opened, RATE), expected)

    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as sink, os.fdopen(reader, "rb") as pipe:

        def feed() -> None:
            sink.write(data)
            sink.close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        assert np.array_equal(audio.read(pipe, RATE), expected)
        feeder.join()


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing\\.wav"):
        audio.read(tmp_path / "missing.wav", RATE)


def test_an_error_of_the_disk_is_not_taken_for_the_end() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 10_000:
                raise OSError("the disk is gone")
            return super().read(size)

    with pytest.raises(OSError, match="the disk is gone"):
        audio.read(Failing(file_of(noise(50_000))), RATE)


wav = file_of(noise(RATE))
flac = file_of(noise(RATE), format="FLAC")
mp3 = file_of(noise(2 * RATE), format="MP3", subtype="MPEG_LAYER_III")
vorbis = file_of(noise(4 * RATE), format="OGG", subtype="VORBIS")
opus = file_of(noise(4 * RATE), format="OGG", subtype="OPUS")
w64 = file_of(noise(RATE), format="W64")
aiff = file_of(noise(RATE), format="AIFF")
au = file_of(noise(RATE), format="AU")
with_nan = noise(RATE)
with_nan[1200] = np.nan
with_infinity = np.stack([noise(RATE), noise(RATE)], axis=1)
with_infinity[2400, 1] = -np.inf


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the audio is empty: 0 bytes"),
        (b"R", "not readable as audio: Format not recognised"),
        (b"this is a letter, not a sound " * 100, "not readable as audio: Format not recognised"),
        (b'{"codes": [[1], [2, 3]]}', "not readable as audio: Format not recognised"),
        (bytes(10_000), "not readable as audio: Format not recognised"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), "not readable as audio: Format not recognised"),
        (wav[:40], "not readable as audio: .*No 'data' chunk"),
        (wav[:44], "the audio has a header and no samples"),
        (wav[: len(wav) // 2], "cut short: 23978 of 48000 bytes are there"),
        (wav[:-1], "cut short: 47999 of 48000 bytes are there"),
        (aiff[: len(aiff) // 2], "cut short: "),
        (au[: len(au) // 2], "cut short: "),
        (w64[: len(w64) // 2], "cut short: "),
        (flac[: len(flac) // 2], "cut short or damaged after 0.000 s: .*lost sync"),
        (flac[:100], "cut short or damaged"),
        (flac[:30], "not readable as audio"),
        (mp3[: len(mp3) // 2], "the MP3 ends after .* of 2.064 s: it is cut short"),
        (vorbis[: len(vorbis) // 2], "the Ogg is cut short"),
        (opus[: len(opus) // 2], "the Ogg is cut short"),
        (patched(wav, 22, "<H", 0), "not readable as audio: Channel count is zero"),
        (patched(wav, 22, "<H", 5000), "not readable as audio: Too many channels"),
        (patched(wav, 22, "<H", 1000), r"1000 channels are outside 1\.\.64"),
        (patched(wav, 24, "<I", 0), "not readable as audio"),
        (patched(wav, 24, "<I", 3), r"a sample rate of 3 Hz is outside 1000\.\.768000 Hz"),
        (patched(wav, 24, "<I", 2_000_000), "a sample rate of 2000000 Hz is outside"),
        (
            file_of(with_nan, subtype="FLOAT"),
            r"sample 1200 \(0\.050 s\) is \[nan\], which is not finite",
        ),
        (
            file_of(with_infinity, subtype="FLOAT"),
            r"sample 2400 \(0\.100 s\) is \[.*, -inf\], which is not finite",
        ),
        (file_of(np.full(9, 1e308), subtype="DOUBLE"), r"is \[inf\], which is not finite"),
        (
            file_of(np.tile([3e38, -3e38], 999).repeat(9), 44100, subtype="FLOAT"),
            "has a peak of 3e[+]38",
        ),
    ],
)
def test_bad_audio_is_refused(data: bytes, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AudioError, match=message):
        audio.read(data, RATE)
    assert "Traceback" not in capfd.readouterr().err


@settings(max_examples=60, deadline=None)
@given(
    data=st.sampled_from([wav, flac, vorbis, opus, aiff]),
    place=st.floats(0, 0.02),
    junk=st.binary(min_size=1, max_size=8),
)
def test_damaged_headers_are_read_or_refused(data: bytes, place: float, junk: bytes) -> None:
    start = int(place * len(data))
    try:
        samples = audio.read(data[:start] + junk + data[start + len(junk) :], RATE, 1000)
    except AudioError:
        return
    audio.check_samples(samples)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_of_a_streaming_writer_is_read(size: int) -> None:
    streamed = patched(patched(wav, 4, "<I", size), 40, "<I", size)
    assert np.array_equal(audio.read(streamed, RATE), audio.read(wav, RATE))


def test_a_flac_of_unknown_length_is_read() -> None:
    # The low 36 bits from byte 21 of a FLAC file are its length in samples; 0 is unknown.
    assert int.from_bytes(flac[21:26], "big") & (2**36 - 1) == RATE
    streamed = flac[:21] + bytes([flac[21] & 0xF0, 0, 0, 0, 0]) + flac[26:]
    assert np.array_equal(audio.read(streamed, RATE), audio.read(flac, RATE))
    with pytest.raises(AudioTooLongError, match=r"lasts at least 1.000 s; at most 0.9 s"):
        audio.read(streamed, RATE, max_seconds=0.9)


def test_an_ogg_whose_writer_was_stopped_is_read() -> None:
    last_page = opus.rindex(b"OggS")
    samples = audio.read(opus[:last_page], RATE)
    assert 2 * RATE < len(samples) < 4 * RATE


def test_a_header_cannot_ask_for_memory() -> None:
    boast = flac[:21] + bytes([flac[21] | 0x0F, 255, 255, 255, 255]) + flac[26:]
    with pytest.raises(AudioError, match="cut short: 24000 of 68719476735 samples"):
        audio.read(boast, RATE)


@pytest.mark.parametrize(("format", "subtype"), CONTAINERS)
def test_the_longest_allowed_is_enforced(format: str, subtype: str) -> None:
    data = file_of(tone(RATE), RATE, format, subtype)
    assert len(audio.read(data, RATE, max_seconds=1.0)) == RATE
    with pytest.raises(AudioTooLongError, match=r"lasts at least 1.000 s; at most 0.99 s are read"):
        audio.read(data, RATE, max_seconds=0.99)


def test_hours_in_a_small_file_are_refused() -> None:
    memory = io.BytesIO()
    with soundfile.SoundFile(memory, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(30):
            file.write(np.zeros(8000 * 60, np.int16))
    data = memory.getvalue()
    assert len(data) < 100_000
    with pytest.raises(AudioTooLongError, match=r"at least 1800.000 s; at most 600 s"):
        audio.read(data, RATE, max_seconds=600)


def test_many_channels_at_a_high_rate_are_refused_where_they_are_minutes_of_work() -> None:
    memory = io.BytesIO()
    with soundfile.SoundFile(memory, "w", 192_000, 8, format="FLAC", subtype="PCM_16") as file:
        file.write(np.zeros((192_000, 8), np.int16))
    data = memory.getvalue()
    assert len(audio.read(data, RATE, max_seconds=16.0)) == RATE
    with pytest.raises(AudioTooLongError, match="8 channels of 192000 Hz; at most 1440000 are"):
        audio.read(data, RATE, max_seconds=15.0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to read memory")
def test_reading_holds_the_result_and_a_few_blocks(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    second = (np.random.default_rng(0).standard_normal((44100, 2)) * 3000).astype(np.int16)
    with soundfile.SoundFile(path, "w", 44100, 2) as file:
        for _ in range(120):
            file.write(second)
    short = tmp_path / "short.wav"
    soundfile.write(short, second, 44100)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.snac_core.audio.read_peak", str(path), str(short)],
        capture_output=True,
        text=True,
        check=True,
    )
    result, grown = map(int, ran.stdout.split())
    assert result == 120 * 24000 * 4
    assert grown < result + 8 * 2**20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: audio.format_of("a.mp3"), r"a\.mp3 does not end in one of \['\.wav'"),
        (lambda: audio.encode_bytes(tone(9), RATE, cast("AudioFormat", "mp3")), "unknown audio"),
        (lambda: audio.encode_bytes(tone(9), 5, "wav"), "a sample rate of 5 Hz is outside"),
        (lambda: audio.read(wav, 0), "a sample rate of 0 Hz is outside"),
    ],
)
def test_wrong_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        call()


def test_nothing_is_written_where_the_samples_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="sample 1 is nan, which is not finite"):
        audio.write(tmp_path / "a.wav", np.array([0.0, np.nan]), RATE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "there are no samples"),
        ([[0.1, 0.2]], r"must be one-dimensional \(mono\), not of shape \(1, 2\)"),
        ([[0.1], [0.2, 0.3]], "must be a one-dimensional array"),
        (np.zeros(5, np.int16), r"must be floats within -1\.\.1, not int16"),
        (np.zeros(5, bool), "not bool"),
        (np.zeros(5, complex), "not complex128"),
        ("samples", "must be floats"),
        (None, "not object"),
        ([0.0, math.inf], "sample 1 is inf, which is not finite"),
        ([0.0, 0.0, math.nan], "sample 2 is nan, which is not finite"),
        (np.array([1e300]), "sample 0 is inf, which is not finite"),
    ],
)
def test_wrong_samples_are_named(samples: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        audio.check_samples(samples)


def test_good_samples_are_not_copied() -> None:
    samples = noise(100)
    assert audio.check_samples(samples) is samples
    strided = audio.check_samples(np.linspace(-1, 1, 101)[::2])
    assert strided.flags.c_contiguous
    assert strided.dtype == np.float32
