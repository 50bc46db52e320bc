"""Ogg files: chains, remuxed and live streams, other codecs, damage."""

from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
import pytest

from snac_core import audio
from snac_core.audio import ogg_pages
from snac_core.errors import AudioError
from tests.snac_core.audio.files import RATE, file_of, noise

OPUS = file_of(noise(3 * RATE), RATE, "OGG", "OPUS")
VORBIS = file_of(noise(3 * RATE), RATE, "OGG", "VORBIS")


def pages(data: bytes) -> list[ogg_pages.Page]:
    return list(ogg_pages.pages_of(io.BytesIO(data), 0, len(data)))


def moved(data: bytes, by: int) -> bytes:
    """Return an Ogg whose audio begins at another time, as after a remux or of a live stream."""
    file = io.BytesIO(data)
    found = pages(data)
    made = [data[page.start : page.end] for page in found[:2]]
    made += [ogg_pages.rewritten(file, page, page.granule + by) for page in found[2:]]
    return b"".join(made)


def with_input_rate(data: bytes, rate: int) -> bytes:
    file, first = io.BytesIO(data), pages(data)[0]
    head = data[first.body : first.end]
    head = head[:12] + struct.pack("<I", rate) + head[16:]
    return ogg_pages.rewritten(file, first, 0, head) + data[first.end :]


@pytest.mark.parametrize("data", [OPUS, VORBIS], ids=["opus", "vorbis"])
def test_a_chain_is_read_whole(data: bytes) -> None:
    one = audio.read(data, RATE)
    samples = audio.read(data + data + data, RATE)
    assert np.allclose(samples, np.concatenate([one, one, one]), atol=1e-3)
    with pytest.raises(AudioError, match="a chain of"):
        audio.read(VORBIS + OPUS, RATE)


def test_an_unspecified_input_rate_is_48_khz() -> None:
    expected = audio.read(with_input_rate(OPUS, 48000), RATE)
    assert np.array_equal(audio.read(with_input_rate(OPUS, 0), RATE), expected)


@pytest.mark.parametrize("by", [360, -100, 48_000 * 3600])
def test_a_stream_that_begins_at_another_time(by: int) -> None:
    assert np.array_equal(audio.read(moved(OPUS, by), RATE), audio.read(OPUS, RATE))


def test_junk_behind_the_end_is_left_out() -> None:
    for junk in (bytes(500), b"TAG" + bytes(125), b"some text of a tool"):
        assert np.array_equal(audio.read(OPUS + junk, RATE), audio.read(OPUS, RATE))


def test_missing_and_damaged_pages_are_refused() -> None:
    found = pages(OPUS)
    gone = found[3]
    with pytest.raises(AudioError, match=f"lacks pages {gone.sequence} to {gone.sequence}"):
        audio.read(OPUS[: gone.start] + OPUS[gone.end :], RATE)
    middle = (gone.body + gone.end) // 2
    with pytest.raises(AudioError, match=f"no whole page is at byte {gone.start}"):
        audio.read(OPUS[:middle] + bytes(20) + OPUS[middle + 20 :], RATE)


def test_flac_in_ogg() -> None:
    flac = file_of(noise(RATE), RATE, "FLAC", "PCM_16")
    blocks, at = [], 4
    while True:
        end = at + 4 + int.from_bytes(flac[at + 1 : at + 4], "big")
        blocks.append(flac[at:end])
        at = end
        if blocks[-1][0] & 0x80:
            break
    head = b"\x7fFLAC\x01\x00" + struct.pack(">H", len(blocks) - 1) + b"fLaC" + blocks[0]
    bodies = [head, *blocks[1:]]
    bodies += [flac[start : start + 60_000] for start in range(at, len(flac), 60_000)]
    made = b""
    for number, body in enumerate(bodies):
        last = number == len(bodies) - 1
        flags = 2 if number == 0 else 4 if last else 0
        lacing = bytes([255] * (len(body) // 255) + [len(body) % 255])
        fixed = struct.pack("<BBqIIIB", 0, flags, 0, 7, number, 0, len(lacing))
        page = b"OggS" + fixed + lacing + body
        crc = struct.pack("<I", ogg_pages.checksum(page))
        made += page[:22] + crc + page[26:]
    assert np.array_equal(audio.read(made, RATE), audio.read(flac, RATE))


def test_speex_is_named() -> None:
    body = b"Speex   1.2.1".ljust(80, b"\0")
    page = b"OggS" + struct.pack("<BBqIIIB", 0, 2, 0, 7, 0, 0, 1) + bytes([80]) + body
    page = page[:22] + struct.pack("<I", ogg_pages.checksum(page)) + page[26:]
    with pytest.raises(AudioError, match="Speex in Ogg"):
        audio.read(page, RATE)


def test_a_file_that_ends_in_the_head_of_a_page() -> None:
    whole = file_of(noise(RATE), RATE, "OGG", "VORBIS")
    for cut in range(1, 100):
        with pytest.raises(AudioError):
            audio.read(whole[:cut], RATE)
        with contextlib.suppress(AudioError):
            assert len(audio.read(whole + whole[:cut], RATE)) == RATE
