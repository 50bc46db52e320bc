"""Recordings: read, resample, check and write."""

from __future__ import annotations

from snac_core.audio.channels import AudioWarning, Channel, parse_channel
from snac_core.audio.part import RawFormat
from snac_core.audio.reading import read, read_incremental
from snac_core.audio.samples import check_sample_rate, check_samples, resampled
from snac_core.audio.seeking import Facts, facts, read_stretch
from snac_core.audio.source import SoundSource
from snac_core.audio.suffixes import AUDIO_SUFFIXES
from snac_core.audio.writing import (
    MEDIA_TYPES,
    OPUS_SAMPLE_RATES,
    AudioFormat,
    encode_bytes,
    encode_incremental,
    format_of,
    wav_header,
    write,
)

__all__ = [
    "AUDIO_SUFFIXES",
    "MEDIA_TYPES",
    "OPUS_SAMPLE_RATES",
    "AudioFormat",
    "AudioWarning",
    "Channel",
    "Facts",
    "RawFormat",
    "SoundSource",
    "check_sample_rate",
    "check_samples",
    "encode_bytes",
    "encode_incremental",
    "facts",
    "format_of",
    "parse_channel",
    "read",
    "read_incremental",
    "read_stretch",
    "resampled",
    "wav_header",
    "write",
]
