"""What callers share: streams, queue and memory; and what nobody may try without end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.shares import Shares

ONE, TWO, SCRAPER = "tenant-aaaa", "tenant-bbbb", "scraper-cccc"


@pytest.fixture(scope="module")
def shared(serve: Any, model_ref: str) -> Iterator[Any]:
    """A service with two callers behind a proxy on this machine."""
    with serve(
        model=model_ref,
        device="cpu",
        api_keys=f"{ONE},{TWO}",
        metrics_key=SCRAPER,
        key_guesses=3,
        trusted_proxies="127.0.0.1",
        max_streams=8,
    ) as running:
        yield running


def test_one_caller_does_not_get_every_stream(shared: Any) -> None:
    url = f"{shared.url.replace('http', 'ws')}/v1/stream/decode"
    with contextlib.ExitStack() as streams:

        def opened(key: str) -> int:
            count = 0
            with contextlib.suppress(InvalidStatus):
                while True:
                    headers = {"X-Api-Key": key}
                    stream = streams.enter_context(connect(url, additional_headers=headers))
                    stream.send('{"type":"start"}')
                    assert json.loads(stream.recv(300))["type"] == "ready"
                    count += 1
            return count

        # Three quarters for one alone; the rest is there for who comes after.
        assert [opened(ONE), opened(TWO), opened(ONE)] == [6, 2, 0]


def test_guesses_at_a_key_are_few_and_keep_nobody_else_out(shared: Any) -> None:
    def status(key: str, *forwarded: str) -> int:
        headers = {"X-Api-Key": key, "X-Forwarded-For": ", ".join(forwarded)}
        return int(shared.http.get("/v1/models", headers=headers).status_code)

    assert status(ONE, "198.51.100.7") == 200
    guesses = [status(f"guess-number-{number}", "198.51.100.7") for number in range(5)]
    assert guesses == [401, 401, 401, 429, 429]
    # What the client itself wrote into the header changes nothing: the proxy's word is the last.
    assert status("another-guess", "203.0.113.1", "198.51.100.7") == 429
    # Not even the right key of another is looked at from there, but the one that was right before.
    assert status(TWO, "198.51.100.7") == 429
    assert status(ONE, "198.51.100.7") == 200
    assert status(TWO, "198.51.100.8") == 200


def test_without_a_trusted_proxy_the_address_is_the_connections(serve: Any, model_ref: str) -> None:
    with serve(model=model_ref, device="cpu", api_key=ONE, key_guesses=3) as running:
        statuses = [
            running.http.get(
                "/v1/models",
                headers={"X-Api-Key": f"guess-{number}", "X-Forwarded-For": f"203.0.113.{number}"},
            ).status_code
            for number in range(5)
        ]
    assert statuses == [401, 401, 401, 429, 429]


def test_metrics_have_a_key_of_their_own(shared: Any) -> None:
    def get(headers: dict[str, str]) -> httpx.Response:
        forwarded = {"X-Forwarded-For": "198.51.100.20"}
        answer: httpx.Response = shared.http.get("/metrics", headers={**forwarded, **headers})
        return answer

    refused = get({})
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert get({"Authorization": f"Bearer {ONE}"}).status_code == 401
    assert "snac_requests_total" in get({"Authorization": f"Bearer {SCRAPER}"}).text


def test_a_proxy_on_the_same_machine_makes_nobody_an_operator(shared: Any) -> None:
    for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Forwarded-For": "203.0.113.9"}):
        refused = shared.http.post("/v1/models/rollback", headers={**headers, "X-Api-Key": ONE})
        assert refused.status_code == 403
        assert "SNAC_ADMIN_KEY" in refused.json()["detail"]


@given(
    st.floats(0.1, 0.95),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 50)), max_size=60),
)
def test_what_is_free_goes_to_who_has_nothing(
    share: float, wishes: list[tuple[str, float]]
) -> None:
    shares = Shares(100, share)
    for caller, more in wishes:
        fits = more <= 100 - shares.used
        if shares.allows(caller, more):
            assert fits
            shares.take(caller, more)
        elif fits:
            assert shares.of(caller) > 0
    assert shares.used <= 100
    for caller in "abc":
        shares.take(caller, -shares.of(caller))
    assert shares.used == 0


def test_callers_who_keep_asking_end_with_the_same() -> None:
    shares = Shares(64, 0.75)

    def take_all(caller: str) -> None:
        while shares.allows(caller, 1):
            shares.take(caller, 1)

    take_all("first")
    assert shares.of("first") == 48
    for _ in range(100):
        take_all("second")
        shares.take("first", -1)
        take_all("first")
    # Each has share / (1 - share) = 3 times what is then free: 64 / (3 + 3 + 1) of it, times 3.
    assert shares.of("second") == pytest.approx(3 * 64 / 7, abs=2)
    assert shares.of("first") == pytest.approx(3 * 64 / 7, abs=2)
