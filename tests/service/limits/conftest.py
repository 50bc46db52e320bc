"""Fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.http_raw import IMPATIENCE, PATIENCE


@pytest.fixture(scope="module")
def impatient(serve: Any, model_ref: str) -> Iterator[Any]:
    """A server that lets go of clients before a test has to wait for it."""
    with serve(model=model_ref, device="cpu", **IMPATIENCE) as running:
        yield running


@pytest.fixture(scope="module")
def patient(serve: Any, model_ref: str) -> Iterator[Any]:
    """A server that lets a client be who keeps up, on a machine that stalls now and then."""
    patience = dict.fromkeys(("header_timeout", "body_timeout", "write_timeout"), PATIENCE)
    with serve(model=model_ref, device="cpu", min_rate=2000.0, **patience) as running:
        yield running
