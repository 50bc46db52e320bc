"""WAV files whose headers do not say how much there is."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from snac_core import audio
from snac_core.audio import media
from snac_core.errors import AudioError
from tests.snac_core.audio.files import ID3V1, RATE, chunk, file_of, id3v2, noise, riff, wav_format

SOUND = (noise(RATE) * 32768).astype("<i2")
PCM = SOUND.tobytes()
FORMAT = chunk(b"fmt ", wav_format())
EXPECTED = SOUND.astype(np.float32) / 32768


@pytest.mark.parametrize("size", [0, 2**32 - 1, 2**31 - 1, 0x7FFFF000, 2_000_000_000, 2**30])
def test_a_placeholder_for_the_size(size: int) -> None:
    data = riff(FORMAT, chunk(b"data", PCM, size), size=(size + 36) % 2**32)
    assert np.array_equal(audio.read(data, RATE), EXPECTED)


def test_the_size_of_the_first_chunk_only() -> None:
    data = riff(FORMAT, chunk(b"data", PCM, 4800), size=4836)
    assert np.array_equal(audio.read(data, RATE), EXPECTED)


def test_a_size_that_is_too_large_is_a_file_that_was_cut() -> None:
    data = riff(FORMAT, chunk(b"data", PCM, 96_000))
    with pytest.raises(AudioError, match="cut short: 48000 of 96000 bytes are there"):
        audio.read(data, RATE)


@pytest.mark.parametrize(
    "behind",
    [
        chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 4) + b"tool"),
        chunk(b"id3 ", b"abc"),
        bytes(1000),
        b"made by a tool that writes a line",
        ID3V1,
        b"\0",
    ],
)
def test_what_is_not_sound_behind_the_samples(behind: bytes) -> None:
    data = riff(FORMAT, chunk(b"data", PCM)) + behind
    assert np.array_equal(audio.read(data, RATE), EXPECTED)


def test_several_chunks_of_samples() -> None:
    data = riff(
        FORMAT, chunk(b"data", PCM[:20_000]), chunk(b"LIST", b"INFO"), chunk(b"data", PCM[20_000:])
    )
    assert np.array_equal(audio.read(data, RATE), EXPECTED)


def test_joined_files() -> None:
    one = riff(FORMAT, chunk(b"data", PCM))
    samples = audio.read(one + one, RATE)
    assert np.array_equal(samples, np.concatenate([EXPECTED, EXPECTED]))
    other = file_of(SOUND, 16000)
    with pytest.raises(AudioError, match=r"changes after 1\.000 s from 24000 Hz .* to 16000 Hz"):
        audio.read(one + other, RATE)


@pytest.mark.parametrize("form", [b"RF64", b"BW64"])
def test_64_bit_sizes(form: bytes) -> None:
    sizes = struct.pack("<QQQI", 0, len(PCM), len(PCM) // 2, 0)
    data = riff(chunk(b"ds64", sizes), FORMAT, chunk(b"data", PCM, 2**32 - 1), form=form)
    assert np.array_equal(audio.read(data, RATE), EXPECTED)


def test_big_endian() -> None:
    body = struct.pack(">4sI", b"fmt ", 16) + struct.pack(">HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    body += struct.pack(">4sI", b"data", 0) + SOUND.astype(">i2").tobytes()
    data = b"RIFX" + struct.pack(">I", 0) + b"WAVE" + body
    assert np.array_equal(audio.read(data, RATE), EXPECTED)


@pytest.mark.parametrize("make", [lambda data: id3v2(20) + data, lambda data: data + ID3V1])
@pytest.mark.parametrize("format", ["WAV", "FLAC", "AIFF", "W64"])
def test_tags_around_any_format(make: Callable[[bytes], bytes], format: str) -> None:
    data = file_of(SOUND, RATE, format, "PCM_16")
    assert np.array_equal(audio.read(make(data), RATE), audio.read(data, RATE))


def test_w64_without_its_size() -> None:
    data = file_of(SOUND, RATE, "W64", "PCM_16")
    at = data.index(b"data\xf3\xac") + 16
    streamed = data[:at] + struct.pack("<Q", 2**63 - 1) + data[at + 8 :]
    assert np.array_equal(audio.read(streamed, RATE), audio.read(data, RATE))


def test_gsm_with_an_odd_number_of_blocks() -> None:
    # 63 blocks of 65 bytes, and the byte that makes the chunk's size even.
    gsm = file_of(noise(63 * 320), 8000, "WAV", "GSM610")
    at = gsm.index(b"data")
    padded = gsm[: at + 4] + struct.pack("<I", 63 * 65 + 1) + gsm[at + 8 : at + 8 + 63 * 65] + b"\0"
    assert len(audio.read(padded, 8000)) == 63 * 320


def test_mp3_inside() -> None:
    mp3 = file_of(noise(44100), 44100, "MP3", "MPEG_LAYER_III")
    data = riff(chunk(b"fmt ", wav_format(44100, 1, 0x55, 0) + b"\0\0"), chunk(b"data", mp3))
    assert np.array_equal(audio.read(data, RATE), audio.read(mp3, RATE))


@pytest.mark.skipif(media.available(), reason="the extra `media` reads it")
def test_an_encoding_that_is_not_read_is_named() -> None:
    data = riff(chunk(b"fmt ", wav_format(16000, 1, 0x28F, 4) + b"\0\0"), chunk(b"data", PCM))
    with pytest.raises(AudioError, match=r"G\.722 in WAV"):
        audio.read(data, RATE)


def test_caf_and_au_without_their_size() -> None:
    caf = file_of(SOUND, RATE, "CAF", "PCM_16")
    at = caf.index(b"data") + 4
    streamed = caf[:at] + struct.pack(">q", -1) + caf[at + 8 :]
    assert np.array_equal(audio.read(streamed, RATE), EXPECTED)
    au = file_of(SOUND, RATE, "AU", "PCM_16")
    for size in (0, 2**32 - 1, 4800):
        assert np.array_equal(
            audio.read(au[:8] + struct.pack(">I", size) + au[12:], RATE), EXPECTED
        )


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_aiff_of_a_writer_that_streams(size: int) -> None:
    aiff = file_of(SOUND, RATE, "AIFF", "PCM_16")
    common, sound = aiff.index(b"COMM") + 10, aiff.index(b"SSND") + 4
    data = bytearray(aiff)
    data[common : common + 4] = bytes(4)
    data[sound : sound + 4] = struct.pack(">I", size)
    assert np.array_equal(audio.read(bytes(data), RATE), EXPECTED)


def test_a_flac_longer_than_it_says_and_joined_ones() -> None:
    flac = file_of(SOUND, RATE, "FLAC", "PCM_16")
    half = (int.from_bytes(flac[21:26], "big") - RATE // 2).to_bytes(5, "big")
    assert np.array_equal(audio.read(flac[:21] + half + flac[26:], RATE), EXPECTED)
    joined = audio.read(flac + flac, RATE)
    assert np.array_equal(joined, np.concatenate([EXPECTED, EXPECTED]))
    assert soundfile.info(io.BytesIO(flac)).frames == RATE
