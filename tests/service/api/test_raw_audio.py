"""Content types of samples without a header."""

from __future__ import annotations

import pytest

from service.api.raw_audio import raw_format
from service.errors import InvalidRequestError
from snac_core.audio import RawFormat


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("audio/pcm;rate=16000", RawFormat(16000)),
        ("audio/L16; rate=44100; channels=2", RawFormat(44100, 2, "PCM_16", True)),
        ("audio/basic", RawFormat(8000, 1, "ULAW")),
        ("audio/PCMA;rate=16000", RawFormat(16000, 1, "ALAW")),
        ("audio/wav", None),
        ("", None),
    ],
)
def test_the_format_is_that_of_the_content_type(header: str, expected: RawFormat | None) -> None:
    assert raw_format(header, b"\0\0\0\0") == expected


def test_a_file_of_suns_format_has_its_own_header() -> None:
    assert raw_format("audio/basic", b".snd") is None


@pytest.mark.parametrize("header", ["audio/pcm", "audio/L16;rate=0", "audio/pcm;rate=fast"])
def test_a_missing_rate_is_said(header: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"needs rate=, a number from 1 to 768000"):
        raw_format(header, b"")
