"""Which channel is read, and levels that are refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from snac_core import audio
from snac_core.audio import AudioWarning, RawFormat
from snac_core.errors import AudioError
from tests.snac_core.audio.files import RATE, file_of, noise

SOUND = noise(RATE)
STEREO = file_of(np.stack([0.5 * SOUND, SOUND], axis=1), RATE, subtype="FLOAT")


def test_a_channel_is_chosen() -> None:
    assert np.array_equal(audio.read(STEREO, RATE, channel=0), 0.5 * SOUND)
    assert np.array_equal(audio.read(STEREO, RATE, channel=1), SOUND)
    assert np.array_equal(audio.read(STEREO, RATE, channel="loudest"), SOUND)
    assert np.allclose(audio.read(STEREO, RATE), 0.75 * SOUND, atol=1e-7)
    with pytest.raises(AudioError, match=r"channel 2 is not one of 0\.\.1"):
        audio.read(STEREO, RATE, channel=2)


def test_an_average_that_cancels_out_is_said() -> None:
    data = file_of(np.stack([SOUND, -SOUND], axis=1), RATE, subtype="FLOAT")
    with pytest.warns(AudioWarning, match="the average of the 2 channels is .* quieter"):
        audio.read(data, RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio.read(data, RATE, channel="loudest")
        audio.read(STEREO, RATE)
        audio.read(file_of(np.zeros((RATE, 2), np.float32), RATE), RATE)


def test_channels_are_parsed() -> None:
    assert [audio.parse_channel(text) for text in ("average", "loudest", "3")] == [
        "average",
        "loudest",
        3,
    ]
    for bad in ("", "-1", "left", "1e3", "٣"):
        with pytest.raises(AudioError, match="channel must be average, loudest or an index"):
            audio.parse_channel(bad)


@pytest.mark.parametrize("scale", [32768.0, 3e37])
def test_floats_far_beyond_full_scale_are_refused(scale: float) -> None:
    data = file_of(np.float32(scale) * SOUND, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a peak of .*: full scale is 1, and at most 16 \(\+24"):
        audio.read(data, RATE)


def test_moderate_overs_are_read() -> None:
    loud = SOUND * np.float32(2 / np.abs(SOUND).max())
    assert np.array_equal(audio.read(file_of(loud, RATE, subtype="FLOAT"), RATE), loud)


def test_samples_without_a_header() -> None:
    pcm = (SOUND * 32768).astype("<i2")
    expected = pcm.astype(np.float32) / 32768
    little = RawFormat(RATE)
    assert np.array_equal(audio.read(pcm.tobytes(), RATE, raw=little), expected)
    big = RawFormat(RATE, big_endian=True)
    assert np.array_equal(audio.read(pcm.astype(">i2").tobytes(), RATE, raw=big), expected)
    law = file_of(SOUND, 8000, "AU", "ULAW")[24:]
    assert len(audio.read(law, 8000, raw=RawFormat(8000, 1, "ULAW"))) == RATE
