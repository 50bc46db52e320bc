"""What is written, and read again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
import soundfile

from snac_core import audio
from snac_core.audio import AudioFormat
from snac_core.errors import AudioError
from tests.snac_core.audio.files import RATE, tone


@pytest.mark.parametrize("format", ["wav", "flac", "pcm"])
def test_16_bit_audio_is_written_unchanged(format: AudioFormat) -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32768, 300_000).astype(np.int16)
    pcm[:2] = -32768, 32767
    data = audio.encode_bytes(pcm.astype(np.float32) / 32768, RATE, format)
    if format == "pcm":
        assert data == pcm.astype("<i2").tobytes()
    else:
        back, rate = soundfile.read(io.BytesIO(data), dtype="int16")
        assert rate == RATE
        assert np.array_equal(back, pcm)


@pytest.mark.parametrize("format", ["wav", "flac", "pcm", "ogg"])
def test_what_is_too_loud_is_clipped(format: AudioFormat) -> None:
    data = audio.encode_bytes(10 * tone(RATE), RATE, format)
    back = audio.read(audio.wav_header(RATE) + data if format == "pcm" else data, RATE)
    clipped = np.clip(10 * tone(RATE), -1, 1)
    if format == "ogg":
        assert np.corrcoef(back, clipped)[0, 1] > 0.98
    else:
        assert np.abs(back - clipped).max() < 1e-4


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000, 22050, 32000, 44100])
def test_ogg_is_opus_of_a_rate_that_opus_has(rate: int) -> None:
    data = audio.encode_bytes(tone(rate, rate), rate, "ogg")
    info = soundfile.info(io.BytesIO(data))
    assert (info.format, info.subtype) == ("OGG", "OPUS")
    assert info.samplerate == (rate if rate in audio.OPUS_SAMPLE_RATES else 48000)
    back = audio.read(data, rate)
    assert len(back) == rate
    assert np.corrcoef(back, tone(rate, rate))[0, 1] > 0.98


@pytest.mark.parametrize("name", ["a.wav", "a.FLAC", "a.ogg", "a.opus", "a.pcm"])
def test_write_takes_the_format_from_the_ending(name: str, tmp_path: Path) -> None:
    audio.write(tmp_path / name, tone(5000), RATE)
    data = (tmp_path / name).read_bytes()
    if name.endswith("pcm"):
        assert len(data) == 10_000
    else:
        assert len(audio.read(data, RATE)) == 5000
    assert audio.MEDIA_TYPES[audio.format_of(name)].startswith("audio/")


@pytest.mark.parametrize("format", ["wav", "flac", "pcm", "ogg"])
def test_write_to_a_file_that_cannot_seek(format: AudioFormat) -> None:
    class Forwards(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, chunk: Any) -> int:
            self.data += bytes(chunk)
            return len(chunk)

    sink = Forwards()
    audio.write(cast("BinaryIO", sink), tone(5000), RATE, format)
    assert len(sink.data) == len(audio.encode_bytes(tone(5000), RATE, format))


def test_a_wav_header_of_unknown_length_is_read_to_the_end() -> None:
    data = audio.wav_header(RATE) + audio.encode_bytes(tone(5000), RATE, "pcm")
    assert np.array_equal(
        audio.read(data, RATE), audio.read(audio.encode_bytes(tone(5000), RATE), RATE)
    )
    with pytest.raises(AudioError, match="3000000000 samples are too many for WAV"):
        audio.wav_header(RATE, 3_000_000_000)
