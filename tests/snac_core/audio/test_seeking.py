from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from snac_core import audio
from snac_core.errors import AudioError

RATE = 24000
FORMATS = [
    ("WAV", "PCM_16"),
    ("RF64", "PCM_24"),
    ("AIFF", "PCM_16"),
    ("CAF", "FLOAT"),
    ("AU", "ULAW"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("MP3", "MPEG_LAYER_III"),
]


def recording(format: str, subtype: str, seconds: float = 3.0, channels: int = 1) -> bytes:
    rng = np.random.default_rng(int(10 * seconds))
    time = np.arange(round(RATE * seconds)) / RATE
    wave = 0.3 * np.sin(2 * np.pi * 200 * time * (1 + time)) + 0.01 * rng.normal(size=len(time))
    file = io.BytesIO()
    soundfile.write(file, np.stack([wave] * channels, 1), RATE, subtype, format=format)
    return file.getvalue()


def check_stretches(data: bytes | Path, frames: int, tolerance: float = 0.0) -> None:
    whole = audio.read(data, RATE)
    assert audio.facts(data).frames == len(whole) == frames
    for first in (0, 1, 4097, frames // 2, frames - 100, frames):
        stretch, rate = audio.read_stretch(data, first, 4800)
        assert rate == RATE
        np.testing.assert_allclose(stretch, whole[first : first + 4800], atol=tolerance)


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
def test_a_stretch_is_what_reading_on_gives(format: str, subtype: str) -> None:
    check_stretches(recording(format, subtype, channels=2), 3 * RATE, tolerance=2e-6)


def test_repairs_hold_for_stretches_too() -> None:
    # A writer that streamed: the sizes are not known.
    wav = bytearray(recording("WAV", "PCM_16"))
    wav[40:44] = b"\xff\xff\xff\xff"
    check_stretches(bytes(wav), 3 * RATE)
    # Two files joined, of each kind.
    for format, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")):
        joined = recording(format, subtype) + recording(format, subtype, 2.0)
        check_stretches(joined, 5 * RATE, tolerance=2e-6)


@pytest.mark.parametrize("states", [0, RATE, 3 * RATE - 1])
def test_a_flac_that_states_another_length_is_read_whole(states: int) -> None:
    flac = bytearray(recording("FLAC", "PCM_16"))
    packed = int.from_bytes(flac[21:26], "big") & ~(2**36 - 1) | states
    flac[21:26] = packed.to_bytes(5, "big")
    check_stretches(bytes(flac), 3 * RATE)


def test_what_is_cut_short_is_refused() -> None:
    for format, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16")):
        data = recording(format, subtype)
        with pytest.raises(AudioError, match=r"cut short|damaged"):
            audio.facts(data[: len(data) // 2])
    with pytest.raises(AudioError, match="0 bytes"):
        audio.facts(b"")
    with pytest.raises(AudioError, match="Format not recognised"):
        audio.read_stretch(b"no sound at all", 0, 10)
