"""MP3 files are read whole, whatever their headers say, or refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from snac_core import audio
from snac_core.audio import mpeg
from snac_core.errors import AudioError
from tests.snac_core.audio.files import ID3V1, RATE, file_of, id3v2, noise, tone

# Loud and soft stretches, so that a variable bitrate varies.
SOUND = np.concatenate([noise(RATE), 0.01 * tone(RATE), noise(RATE)])


def mp3(rate: int, channels: int = 1, mode: str = "VARIABLE", seconds: float = 3.0) -> bytes:
    wave = np.resize(SOUND, round(seconds * rate))
    samples = np.stack([wave] * channels, axis=1)
    return file_of(samples, rate, "MP3", "MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5)


def without_header(data: bytes) -> bytes:
    first = mpeg.parse_header(data[:4])
    assert first is not None
    assert b"Xing" in data[: first.length] or b"Info" in data[: first.length]
    return data[first.length :]


def frames(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        header = mpeg.parse_header(data[at : at + 4])
        assert header is not None
        found.append(data[at : at + header.length])
        at += header.length
    return found


def length(data: bytes, rate: int) -> int:
    return len(audio.read(data, rate))


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT", "AVERAGE"])
@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_with_or_without_a_length_header_and_tags(mode: str, rate: int, channels: int) -> None:
    data = mp3(rate, channels, mode)
    assert length(data, rate) == 3 * rate
    bare = without_header(data)
    per_frame = 1152 if rate == 44100 else 576
    all_of_it = len(frames(bare)) * per_frame
    for tagged in (bare, id3v2(1000) + bare, id3v2(100_000) + bare + ID3V1, bytes(3000) + bare):
        assert length(tagged, rate) == all_of_it
    twice = bare + id3v2(10) + bare
    assert length(twice, rate) == 2 * all_of_it


@pytest.mark.parametrize("seconds", [0.1, 0.5, 2.0])
def test_joined_files_are_read_to_the_end(seconds: float) -> None:
    data = mp3(RATE, seconds=seconds)
    samples = audio.read(data + data, RATE)
    # The second file's length header is a frame of silence, as players take it.
    assert abs(len(samples) - 2 * round(seconds * RATE)) < 4 * 576
    assert np.abs(samples[-len(samples) // 4 :]).max() > 0.05
    assert length(data + ID3V1 + id3v2(500) + data, RATE) == len(samples)


def test_the_samples_are_those_of_the_file_with_its_header() -> None:
    data = mp3(44100)
    expected = audio.read(data, 44100)
    samples = audio.read(without_header(data), 44100)
    delay = 576 + mpeg.DECODER_DELAY
    both = samples[delay : delay + 100_000], expected[:100_000]
    assert np.abs(both[0] - both[1]).max() < 1e-3


def test_a_vbri_header_is_not_sound() -> None:
    bare = frames(without_header(mp3(44100)))
    header = bytearray(bare[0][:4] + bytes(max(len(bare[0]), 200) - 4))
    header[36:40] = b"VBRI"
    size = mpeg.parse_header(bytes(header[:4]))
    assert size is not None
    struct.pack_into(">I", header, 50, len(bare))
    assert length(bytes(header[: size.length]) + b"".join(bare), 44100) == 1152 * len(bare)


def test_what_a_length_header_promises_has_to_be_there() -> None:
    data = mp3(44100)
    with pytest.raises(AudioError, match=r"the MP3 ends after 1\..* of 3\..* s: it is cut short"):
        audio.read(data[: len(data) // 2], RATE)


def test_a_single_frame_is_a_recording() -> None:
    (first, *_) = frames(without_header(mp3(44100)))
    assert length(first, 44100) == 1152


def test_a_damaged_middle_is_refused() -> None:
    bare = without_header(mp3(44100, mode="CONSTANT"))
    middle = len(bare) // 2
    broken = bare[:middle] + b"\x55" * 3000 + bare[middle + 3000 :]
    with pytest.raises(AudioError, match=r"the MPEG audio is damaged after 1\.\d+ s: bytes"):
        audio.read(broken, RATE)


def test_different_kinds_that_were_joined_are_refused() -> None:
    with pytest.raises(AudioError, match=r"changes at byte .* from 44100 Hz mono to 22050 Hz mono"):
        audio.read(mp3(44100) + mp3(22050), RATE)


def test_a_large_tag_costs_no_memory() -> None:
    data = id3v2(50_000_000) + mp3(44100)
    assert length(data, 44100) == 3 * 44100


def test_noise_is_not_searched_for_long() -> None:
    with pytest.raises(AudioError, match="Format not recognised"):
        audio.read(np.random.default_rng(1).bytes(1_000_000), RATE)


def test_the_frame_header_is_read_as_the_standard_has_it() -> None:
    header = mpeg.parse_header(bytes.fromhex("fffb9064"))
    assert header == (3, True, 44100, False, 417)
    assert mpeg.parse_header(bytes.fromhex("fff384c4")) == (3, False, 24000, True, 192)
    for bad in ("fffb00", "fffbf064", "fffb9c64", "ffeb9064", "fff99064", "7ffb9064"):
        assert mpeg.parse_header(bytes.fromhex(bad)) is None
    assert mpeg.find_first_frame(io.BytesIO(bytes(100)), 0, 100) is None
