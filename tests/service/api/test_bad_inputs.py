"""Whatever is sent, the answer is a problem that says what was wrong, and never a 500."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

TABLE = runpy.run_path(str(Path(__file__).parents[3] / "bench" / "bad_inputs.py"))
CASES = TABLE["cases"]()

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
fields = st.sampled_from(
    ["codes", "layout", "base", "num_samples", "seed", "noise", "token_space", "model"]
)


@pytest.fixture(scope="module")
def limited(serve: Any, model_ref: str) -> Iterator[Any]:
    with serve(model=model_ref, device="cpu", **TABLE["LIMITS"]) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.said)
def test_bad_input_is_a_problem(limited: Any, case: Any) -> None:
    answer = case.send(limited.http)
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (case.status, case.status), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["type"].startswith("urn:snac:problem:")
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"].startswith("/v1/")
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert "Traceback" not in answer.text


def test_the_table_leaves_the_service_well(limited: Any, wav_of: Any, samples_of: Any) -> None:
    assert limited.http.post("/v1/encode", content=wav_of(samples_of(0.2))).status_code == 200
    assert limited.http.get("/health/ready").status_code == 200


@settings(max_examples=60, deadline=None)
@given(body=st.dictionaries(fields, values))
def test_no_json_body_is_a_500(limited: Any, body: dict[str, Any]) -> None:
    answer = limited.http.post("/v1/decode", content=json.dumps(body))
    assert 400 <= answer.status_code < 500, answer.text


@settings(max_examples=60, deadline=None)
@given(
    body=st.binary(max_size=200)
    | st.binary(max_size=100).map(lambda tail: b"\x81\xa5codes" + tail),
    media=st.sampled_from(["application/msgpack", "application/x-npz", "application/json", ""]),
)
def test_no_bytes_are_a_500(limited: Any, body: bytes, media: str) -> None:
    answer = limited.http.post("/v1/decode", content=body, headers={"Content-Type": media})
    assert 400 <= answer.status_code < 500, answer.text
