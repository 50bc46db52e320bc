"""What `/openapi.json` promises, tried out on a running service by Schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
CALLS = [
    ("POST", "/v1/encode"),
    ("POST", "/v1/encode/batch"),
    ("POST", "/v1/decode"),
    ("POST", "/v1/decode/batch"),
    ("POST", "/v1/reconstruct"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/current"),
    ("POST", "/v1/models/reload"),
    ("POST", "/v1/models/rollback"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/health/startup"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def documented(serve: Any, model_ref: str) -> Iterator[Any]:
    with serve(model=model_ref, device="cpu", max_seconds=5.0) as running:
        yield schemathesis.openapi.from_url(f"{running.url}/openapi.json")


def test_every_documented_call_is_tried(documented: Any) -> None:
    operations = [found.ok() for found in documented.get_all_operations()]
    assert sorted((one.method.upper(), one.path) for one in operations) == sorted(CALLS)


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_call_answers_as_documented(documented: Any, method: str, path: str) -> None:
    """No 500, and no status, content type or shape of JSON that the document does not have."""

    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=documented[path][method].as_strategy())
    def answers_as_documented(case: Any) -> None:
        answer = case.call()
        # 504 is what a request gets that has a microsecond to live.
        assert answer.status_code < 500 or answer.status_code == 504, answer.text
        case.validate_response(answer, checks=CHECKS)

    answers_as_documented()
