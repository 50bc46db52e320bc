"""Recordings made for the tests of reading: tones in files of many formats, and their parts."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

RATE = 24000


def tone(samples: int, rate: int = RATE, hz: float = 440.0) -> npt.NDArray[np.float32]:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(samples) / rate)).astype(np.float32)


def noise(samples: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def file_of(
    samples: npt.NDArray[Any],
    rate: int = RATE,
    format: str = "WAV",
    subtype: str | None = None,
    **options: Any,
) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, samples, rate, format=format, subtype=subtype, **options)
    return memory.getvalue()


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    """Return a RIFF chunk, whose stated size may be another than the true one."""
    stated = len(body) if size is None else size
    return name + struct.pack("<I", stated) + body + bytes(len(body) % 2)


def wav_format(rate: int = RATE, channels: int = 1, tag: int = 1, bits: int = 16) -> bytes:
    block = channels * bits // 8
    return struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)


def riff(*chunks: bytes, form: bytes = b"RIFF", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return form + struct.pack("<I", len(body) if size is None else size) + body


def id3v2(size: int) -> bytes:
    return b"ID3\x04\x00\x00" + bytes(size >> 7 * n & 127 for n in (3, 2, 1, 0)) + bytes(size)


ID3V1 = b"TAG" + b"a title".ljust(125, b"\0")
