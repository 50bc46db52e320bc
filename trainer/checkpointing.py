"""Writing checkpoints so that a reader finds an old one or a new one, never half of one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save(path: Path, contents: Mapping[str, Any]) -> None:
    """Write ``contents`` with `torch.save`, then move it into place.

    Raises
    ------
    OSError
        When the disk is full, say; what ``path`` held before is then still there.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        torch.save(dict(contents), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
