"""What is read prints nothing, whatever its decoder thinks of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from snac_core.audio import mpeg
from tests.snac_core.audio.files import RATE, file_of, noise


def noisy_frames() -> bytes:
    """Return MP3 frames with anything in them; libmpg123 writes a line or more about each."""
    data = file_of(noise(RATE), RATE, "MP3", "MPEG_LAYER_III", bitrate_mode="CONSTANT")
    chance, found = np.random.default_rng(0), []
    while header := mpeg.parse_header(data[:4]):
        found.append(data[:4] + chance.bytes(header.length - 4))
        data = data[header.length :]
    return b"".join(found[1:])


def sample_dump() -> bytes:
    """Return a MIDI sample dump whose packets begin wrongly; libsndfile prints each."""
    data = bytearray(file_of(noise(2000), 8000, "SDS", "PCM_16"))
    for at in range(21, len(data), 127):
        data[at + 1] = 0x47
    return bytes(data)


@pytest.mark.parametrize("make", [noisy_frames, sample_dump])
def test_decoders_print_nothing(make: Callable[[], bytes]) -> None:
    body = make()
    command = [sys.executable, "-m", "tests.snac_core.audio.read_input"]
    ran = subprocess.run(command, input=body, capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (b"first heard\n", b"still heard\n")
