"""A store of the test's own, and weights to publish in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from snac_core.store import ModelStore
from tests.support.models import TINY_8KHZ, random_weights


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights(TINY_8KHZ)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")
