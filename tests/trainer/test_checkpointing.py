from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from trainer.checkpointing import save


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", {"step": 3, "model": {"w": torch.arange(4.0)}})
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    assert found["step"] == 3
    assert torch.equal(found["model"]["w"], torch.arange(4.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_disk_that_cannot_take_it_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(path, {"step": 2, "model": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt"]
