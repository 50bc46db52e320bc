"""Whatever the encoder's settings, tags and joins: an MP3 is read whole or refused."""

from __future__ import annotations

import functools
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_core import audio
from snac_core.audio import mpeg
from snac_core.errors import AudioError
from tests.snac_core.audio.files import ID3V1, file_of, noise, tone

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


@functools.cache
def encoded(rate: int, channels: int, mode: str, quality: float, tenths: int) -> bytes:
    """Return what LAME makes, inside libsndfile, of loud and soft stretches."""
    samples = np.resize(np.concatenate([noise(4000), 0.01 * tone(4000)]), tenths * rate // 10)
    wave = np.stack([samples] * channels, axis=1)
    options = {"bitrate_mode": mode, "compression_level": quality}
    return file_of(wave, rate, "MP3", "MPEG_LAYER_III", **options)


def frames_of(data: bytes) -> list[bytes]:
    found, at = [], 0
    while header := mpeg.parse_header(data[at : at + 4]):
        found.append(data[at : at + header.length])
        at += header.length
    return found


def without_header(data: bytes) -> list[bytes]:
    """Return the frames of sound; LAME writes no header where its frame would be too small."""
    found = frames_of(data)
    return found[1:] if b"Xing" in found[0] or b"Info" in found[0] else found


def vbri(first: bytes, count: int) -> bytes:
    """Return the length header of Fraunhofer's encoder for ``count`` frames like ``first``."""
    head = bytes((first[0], first[1] | 1, first[2] & 0x0D | 0xE0, first[3]))
    header = mpeg.parse_header(head)
    assert header is not None
    body = bytearray(head.ljust(header.length, b"\0"))
    struct.pack_into(">4sHHHII", body, 36, b"VBRI", 1, 0, 75, 0, count)
    return bytes(body)


def id3v2(body: bytes) -> bytes:
    sizes = bytes(len(body) >> 7 * n & 127 for n in (3, 2, 1, 0))
    return b"ID3\x03\0\0" + sizes + body


ENCODINGS = st.builds(
    encoded,
    st.sampled_from(RATES),
    st.sampled_from((1, 2)),
    st.sampled_from(("CONSTANT", "AVERAGE", "VARIABLE")),
    st.sampled_from((0.1, 0.5, 0.9)),
    st.integers(1, 20),
)
# Sync words in a tag are not frames.
TAGS = st.one_of(
    st.just(b""),
    st.binary(max_size=300).map(id3v2),
    st.integers(1, 2000).map(lambda count: id3v2(b"\xff\xfb\x90\x64" * count)),
)


@settings(max_examples=40, deadline=None)
@given(ENCODINGS, st.sampled_from(("Xing", "VBRI", "none")), st.lists(TAGS, min_size=1, max_size=3))
def test_as_many_samples_as_there_are_frames(data: bytes, header: str, tags: list[bytes]) -> None:
    """Each of ``tags`` is in front of a copy of the file."""
    kind = mpeg.parse_header(data[:4])
    assert kind is not None
    bare = without_header(data)
    if len(bare) == len(frames_of(data)):
        header = "none"
    elif header != "Xing":
        data = (vbri(bare[0], len(bare)) if header == "VBRI" else b"") + b"".join(bare)
    joined = b"".join(tag + data for tag in tags) + ID3V1
    samples = len(audio.read(joined, kind.sample_rate))
    if header == "none":
        assert samples == len(tags) * len(bare) * kind.samples
    else:
        # Each length header but the first is a frame of silence; LAME's own states a delay.
        most = (len(tags) * (len(bare) + 1) - 1) * kind.samples
        less = 3 * kind.samples if header == "Xing" else (len(tags) - 1) * kind.samples
        assert most - less <= samples <= most


@settings(max_examples=40, deadline=None)
@given(ENCODINGS, st.booleans(), st.floats(0, 1))
def test_a_file_that_was_cut_anywhere(data: bytes, bare: bool, where: float) -> None:
    """It has the frames that are whole, or is refused for what its header promises."""
    kind = mpeg.parse_header(data[:4])
    assert kind is not None
    frames = without_header(data)
    bare = bare or len(frames) == len(frames_of(data))
    whole = b"".join(frames) if bare else data
    cut = whole[: round(where * len(whole))]
    ends = np.cumsum([len(frame) for frame in (frames if bare else frames_of(data))])
    there = int((ends <= len(cut)).sum()) - (not bare)
    try:
        samples = len(audio.read(cut, kind.sample_rate))
    except AudioError:
        assert not bare or there < 3
    else:
        assert abs(samples - there * kind.samples) <= (0 if bare else 3 * kind.samples)
