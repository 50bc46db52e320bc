"""Which representation a client gets."""

from __future__ import annotations

import pytest

from service.api.content_negotiation import content_type, negotiate
from service.errors import NotAcceptableError

OFFERS = ("application/json", "application/x-npz", "audio/wav", "audio/ogg")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/html, */*;q=0.1", "application/json"),
        ("application/x-npz", "application/x-npz"),
        ("APPLICATION/X-NPZ; charset=utf-8", "application/x-npz"),
        ("application/json;q=0.5, application/x-npz", "application/x-npz"),
        ("audio/*", "audio/wav"),
        ("audio/*;q=0.4, audio/ogg;q=0.9", "audio/ogg"),
        ("audio/*, audio/wav;q=0", "audio/ogg"),
        ("*/*, application/json;q=0", "application/x-npz"),
        ("audio/x-wav", "audio/wav"),
        ("audio/opus", "audio/ogg"),
    ],
)
def test_the_most_specific_range_decides(accept: str | None, chosen: str) -> None:
    assert negotiate(accept, OFFERS) == chosen


@pytest.mark.parametrize(
    "accept", ["text/html", "*/*;q=0", "audio/wav;q=nan", "audio/wav;q=2", ",", "json"]
)
def test_nothing_acceptable_is_an_error(accept: str) -> None:
    with pytest.raises(NotAcceptableError, match="application/json"):
        negotiate(accept, OFFERS)


def test_content_types_lose_their_parameters_and_synonyms() -> None:
    assert content_type("audio/x-wav; rate=8000") == "audio/wav"
    assert content_type("Application/JSON;charset=utf-8") == "application/json"
    assert content_type(None) == ""
