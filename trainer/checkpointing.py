"""Writing checkpoints so that a reader finds an old one or a new one, never half of one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from snac_core import durable


def save(path: Path, contents: Mapping[str, Any]) -> None:
    """Write ``contents`` with `torch.save`, then move it into place.

    Raises
    ------
    OSError
        When the disk is full, say; what ``path`` held before is then still there.
    """
    unfinished = path.with_name(f"{durable.TEMPORARY}{path.name}")
    try:
        with unfinished.open("wb") as file:
            torch.save(dict(contents), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        durable.sync(path.parent)
    except RuntimeError as error:
        # PyTorch's writer hides what the file said.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        unfinished.unlink(missing_ok=True)
