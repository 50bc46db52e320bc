"""Which format a recording has, by its first bytes, and what libsndfile is given of it."""

from __future__ import annotations

from typing import BinaryIO

from snac_core.audio import flac, iff, mpeg, ogg, riff
from snac_core.audio.byte_view import Stretch, read_at, size_of, view
from snac_core.audio.part import NotSupportedError, Part
from snac_core.audio.tags import skip_tags
from snac_core.errors import AudioError

LIBSNDFILE_FORMATS = frozenset(
    {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "VOC", "NIST"}
    | {"SVX", "AVR", "IRCAM", "PVF", "PAF", "WVE", "MAT5", "SDS", "RAW"}
)
"""Formats that libsndfile may take a recording for; RAW only where the caller names it."""

# Formats that need nothing but libsndfile, by what they begin with.
_PLAIN = (
    b"NIST_1A",
    b"Creative Voice File",
    b"2BIT",
    b"\x64\xa3",
    b"\x00\x00\x64\xa3",
    b"PVF1\n",
    b" paf",
    b"fap ",
    b"MATLAB 5.0 MAT-file",
    b"ALawSoundFile**",
    b"\xf0\x7e",
)

# What FFmpeg reads, by what it begins with: the format's name, and FFmpeg's of the container.
_OTHERS = (
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM", "matroska"),
    (0, b"#!AMR-WB", "AMR-WB", "amr"),
    (0, b"#!AMR", "AMR", "amr"),
    (0, bytes.fromhex("3026b2758e66cf11"), "ASF (WMA)", "asf"),
    (0, b"FLV\x01", "Flash video", "flv"),
    (0, b"\x0b\x77", "AC-3", "ac3"),
    (0, b"\x7f\xfe\x80\x01", "DTS", ""),
    (0, b"MAC ", "Monkey's Audio", ""),
    (0, b"wvpk", "WavPack", ""),
    (0, b"TTA1", "True Audio", ""),
    (0, b"MPCK", "Musepack", ""),
    (0, b".RMF", "RealMedia", ""),
    (0, b"\x00\x00\x01\xba", "MPEG program stream", ""),
    (0, b"DSD ", "DSD", ""),
    (0, b"MThd", "MIDI, which holds notes and no sound,", ""),
    (0, b"#EXTM3U", "a playlist, which holds no sound,", ""),
    (0, b"ffconcat", "a list of files, which holds no sound,", ""),
    (0, b"<?xml", "XML, which holds no sound,", ""),
    (0, b"PK\x03\x04", "a zip archive", ""),
    (0, b"\x1f\x8b", "a gzip archive", ""),
)
_MP4_BOXES = (b"ftyp", b"moov", b"moof", b"mdat", b"styp", b"wide", b"free", b"skip", b"sidx")


def parts_of(raw: BinaryIO) -> list[Part]:
    """Return the streams that a file's audio is in, in order, as libsndfile is to read them.

    Raises
    ------
    NotSupportedError
        For a format that libsndfile does not read.
    AudioError
        For what is no audio, or is damaged or cut short.
    """
    end = size_of(raw)
    start = skip_tags(raw, 0, end)
    head = read_at(raw, start, 64)
    if (head[:4] in riff.FORMS and head[8:12] == b"WAVE") or head[:16] == riff.W64:
        return riff.normalise(raw, start, end)
    if head[:4] == b"fLaC":
        return flac.normalise(raw, start, end)
    if head[:4] == b"OggS":
        return ogg.normalise(raw, start, end)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return iff.normalise_aiff(raw, start, end)
    if head[:4] == b"caff":
        return iff.normalise_caf(raw, start, end)
    if head[:4] in (b".snd", b"dns."):
        return iff.normalise_au(raw, start, end)
    if head.startswith(_PLAIN) or (head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV")):
        return [Part(view(raw, [Stretch(start, end)]))]
    _refuse_others(raw, start, end, head)
    first = mpeg.find_first_frame(raw, start, end)
    if first is not None:
        return [mpeg.normalise(raw, first, end)]
    raise AudioError(f"not readable as audio: Format not recognised; it begins with {head[:8]!r}")


def _refuse_others(raw: BinaryIO, start: int, end: int, head: bytes) -> None:
    for offset, magic, words, demuxer in _OTHERS:
        if head[offset : offset + len(magic)] == magic:
            raise NotSupportedError(words, demuxer)
    if head[4:8] in _MP4_BOXES:
        words = "3GP" if head[8:11] == b"3gp" else "MP4 or M4A"
        raise NotSupportedError(words, "mov")
    if head[:1] == b"\x47" and read_at(raw, start + 188, 1) == b"\x47" and end - start > 376:
        raise NotSupportedError("MPEG transport stream", "mpegts")
    length = _adts_length(head)
    if length and (start + length >= end or _adts_length(read_at(raw, start + length, 7))):
        raise NotSupportedError("AAC", "aac")


def _adts_length(head: bytes) -> int:
    """Return the bytes of the AAC frame (ISO/IEC 13818-7) that begins so; 0 if none does."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
