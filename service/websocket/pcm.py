"""Raw PCM in WebSocket messages."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from service.errors import MalformedBodyError
from snac_core import audio
from snac_core.types import Samples

PcmFormat = Literal["s16le", "f32le"]
PcmEncoding = Literal["s16le", "f32le", "mulaw", "alaw"]
"""Formats that are read: also those of telephones, of one byte for a sample (ITU-T G.711)."""


def _mulaw() -> npt.NDArray[np.float32]:
    """Return the sample of each mu-law byte: sign, exponent and four bits, all inverted."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, rest = (code >> 4) & 7, (code & 15).astype(np.int32)
    size = (((rest << 3) + 132) << exponent) - 132
    return np.where(code & 128, -size, size).astype(np.float32) / np.float32(32768)


def _alaw() -> npt.NDArray[np.float32]:
    """Return the sample of each A-law byte: the same, with every other bit inverted."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, rest = (code >> 4) & 7, (code & 15).astype(np.int32)
    size = np.where(
        exponent > 0, ((rest << 4) + 264) << np.maximum(exponent, 1) - 1, (rest << 4) + 8
    )
    return np.where(code & 128, size, -size).astype(np.float32) / np.float32(32768)


_TABLES = {"mulaw": _mulaw(), "alaw": _alaw()}


def write_pcm(samples: Samples, sample_rate: int, form: PcmFormat) -> bytes:
    """Return samples as little-endian PCM; 16-bit samples are rounded as in files."""
    if form == "f32le":
        return samples.astype("<f4").tobytes()
    return audio.encode_bytes(samples, sample_rate, "pcm")


class PcmReader:
    """Converts PCM bytes to samples, however the bytes are divided into messages."""

    def __init__(self, form: PcmEncoding) -> None:
        self._table = _TABLES.get(form)
        self._dtype = np.dtype({"s16le": "<i2", "f32le": "<f4"}.get(form, "u1"))
        self._rest = b""

    def read(self, data: bytes) -> Samples:
        """Return the complete samples so far as float32; whole numbers are scaled to -1..1."""
        data = self._rest + data
        whole = len(data) - len(data) % self._dtype.itemsize
        self._rest = data[whole:]
        samples = np.frombuffer(data[:whole], self._dtype)
        if self._table is not None:
            table: Samples = self._table[samples]
            return table
        if self._dtype.kind == "i":
            return samples.astype(np.float32) / np.float32(32768)
        return samples.astype(np.float32)

    def finish(self) -> None:
        """Raise MalformedBodyError if the last sample is incomplete."""
        if self._rest:
            raise MalformedBodyError(
                f"the audio ends with {len(self._rest)} bytes of a sample of {self._dtype.itemsize}"
            )
