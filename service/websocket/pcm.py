"""Raw PCM in WebSocket messages."""

from __future__ import annotations

from typing import Literal

import numpy as np

from service.errors import MalformedBodyError
from snac_core import audio
from snac_core.types import Samples

PcmFormat = Literal["s16le", "f32le"]


def write_pcm(samples: Samples, sample_rate: int, form: PcmFormat) -> bytes:
    """Return samples as little-endian PCM; 16-bit samples are rounded as in files."""
    if form == "f32le":
        return samples.astype("<f4").tobytes()
    return audio.encode_bytes(samples, sample_rate, "pcm")


class PcmReader:
    """Converts PCM bytes to samples, however the bytes are divided into messages."""

    def __init__(self, form: PcmFormat) -> None:
        self._dtype = np.dtype("<i2" if form == "s16le" else "<f4")
        self._rest = b""

    def read(self, data: bytes) -> Samples:
        """Return the complete samples so far as float32; 16-bit PCM is scaled to -1..1."""
        data = self._rest + data
        whole = len(data) - len(data) % self._dtype.itemsize
        self._rest = data[whole:]
        samples = np.frombuffer(data[:whole], self._dtype)
        if self._dtype.kind == "i":
            return samples.astype(np.float32) / np.float32(32768)
        return samples.astype(np.float32)

    def finish(self) -> None:
        """Raise MalformedBodyError if the last sample is incomplete."""
        if self._rest:
            raise MalformedBodyError(
                f"the audio ends with {len(self._rest)} bytes of a sample of {self._dtype.itemsize}"
            )
