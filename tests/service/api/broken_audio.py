"""Broken audio files by the thousand, the same ones for the same seed.

    python tests/service/api/broken_audio.py FOLDER [--count 2000] [--seed 0]

writes them to look at; the tests post them.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wavima": ("WAV", "IMA_ADPCM"),
    "wavadpcm": ("WAV", "MS_ADPCM"),
    "wavex": ("WAVEX", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", None),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "ULAW"),
    "caf": ("CAF", "ALAC_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "voc": ("VOC", "PCM_U8"),
}
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _checksum(byte: int) -> int:
    """Return a byte's part in the checksum of an Ogg page (RFC 3533)."""
    value = byte << 24
    for _ in range(8):
        value = (value << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if value >> 31 else 0)
    return value


CHECKSUMS = [_checksum(byte) for byte in range(256)]

Breaker = Callable[[bytes, random.Random], bytes]


@dataclasses.dataclass(frozen=True)
class Broken:
    """A file that is not what it says, or says what cannot be."""

    name: str
    data: bytes


def truncated(data: bytes, chance: random.Random) -> bytes:
    """Cut it off anywhere."""
    return data[: chance.randrange(len(data))]


def beheaded(data: bytes, chance: random.Random) -> bytes:
    """Leave out the beginning."""
    return data[chance.randrange(1, min(len(data), 200)) :]


def flipped(data: bytes, chance: random.Random) -> bytes:
    """Flip some bits, most of them early, where headers are."""
    broken = bytearray(data)
    for _ in range(chance.choice((1, 2, 8, 64))):
        end = len(broken) if chance.random() < 0.4 else min(len(broken), 64)
        broken[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(broken)


def lying(data: bytes, chance: random.Random) -> bytes:
    """Overwrite a number in the header: a length, a rate, a count of channels."""
    broken = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        layout, size = chance.choice((("<H", 2), ("<I", 4), (">H", 2), (">I", 4)))
        at = chance.randrange(4, min(len(broken) - size, 96))
        value = chance.choice((*EXTREMES, chance.randrange(2**32))) % 2 ** (8 * size)
        struct.pack_into(layout, broken, at, value)
    return bytes(broken)


def hollow(data: bytes, chance: random.Random) -> bytes:
    """Replace a stretch by zeros, ones or noise."""
    start = chance.randrange(len(data))
    length = min(chance.choice((4, 32, 512)), len(data) - start)
    filling = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    return data[:start] + filling + data[start + length :]


def repeated(data: bytes, chance: random.Random) -> bytes:
    """Say a part of it twice."""
    start = chance.randrange(len(data))
    return data[:start] + data[max(0, start - chance.randrange(1, 300)) :]


def noise_behind_a_head(data: bytes, chance: random.Random) -> bytes:
    """Keep the beginning only, and go on at random."""
    return data[: chance.randrange(4, 64)] + chance.randbytes(chance.randrange(1, 2000))


BREAKERS: tuple[Breaker, ...] = (
    truncated,
    beheaded,
    flipped,
    flipped,
    lying,
    lying,
    hollow,
    repeated,
    noise_behind_a_head,
)


def bombs() -> list[Broken]:
    """Return small files that unpack to much, and headers that announce much."""
    silence = np.zeros(24000 * 120, np.int16)
    heads = [
        Broken(f"bomb-{rate}-hz-{channels}-channels", _wav_head(rate, channels, size))
        for rate in (0, 1, 7, 192_000, 2**31 - 1, 2**32 - 1)
        for channels in (0, 1, 255, 65535)
        for size in (0, 2**31 - 1, 2**32 - 1)
    ]
    return [
        Broken("bomb-two-minutes.flac", _file(silence, 24000, "FLAC", "PCM_16")),
        Broken("bomb-two-minutes.ogg", _file(silence, 24000, "OGG", "VORBIS")),
        *heads,
    ]


def sound(format_name: str, seed: int = 0) -> bytes:
    """Return a whole file of a tenth of a second, to be broken."""
    kind, subtype = FORMATS[format_name]
    rate = 48000 if format_name == "opus" else 16000
    chance = np.random.default_rng(seed)
    tone = 0.3 * np.sin(np.arange(rate // 10) / 9) + 0.02 * chance.standard_normal(rate // 10)
    return _file(tone, rate, kind, subtype)


def corpus(count: int = 2000, seed: int = 0) -> Iterator[Broken]:
    """Yield ``count`` broken files, the bombs first."""
    fixed = bombs()[:count]
    yield from fixed
    chance = random.Random(seed)
    whole = {name: sound(name) for name in FORMATS}
    for number in range(len(fixed), count):
        name = chance.choice(list(whole))
        breaker = chance.choice(BREAKERS)
        yield Broken(f"{number:05}-{breaker.__name__}.{name}", breaker(whole[name], chance))


def _file(samples: np.ndarray, rate: int, kind: str, subtype: str | None) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, subtype, format=kind) as writer:
        # In blocks: libsndfile's Vorbis encoder keeps what one call brings on the stack.
        for start in range(0, len(samples), 4096):
            writer.write(samples[start : start + 4096])
    data = file.getvalue()
    return _with_one_serial(data) if kind == "OGG" else data


def _with_one_serial(ogg: bytes) -> bytes:
    """Give every page the serial number 0 in place of a random one, and the checksum it needs."""
    pages = bytearray(ogg)
    at = 0
    while at < len(pages):
        segments = pages[at + 27 : at + 27 + pages[at + 26]]
        end = at + 27 + len(segments) + sum(segments)
        pages[at + 14 : at + 18] = pages[at + 22 : at + 26] = bytes(4)
        checksum = 0
        for byte in pages[at:end]:
            checksum = (checksum << 8 & 0xFFFFFFFF) ^ CHECKSUMS[checksum >> 24 ^ byte]
        struct.pack_into("<I", pages, at + 22, checksum)
        at = end
    return bytes(pages)


def _wav_head(rate: int, channels: int, size: int) -> bytes:
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 % 2**32, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVEfmt \x10\x00\x00\x00"
        + form
        + b"data"
        + struct.pack("<I", size)
        + bytes(400)
    )


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for broken in corpus(options.count, options.seed):
        (options.folder / broken.name).write_bytes(broken.data)


if __name__ == "__main__":
    main()
