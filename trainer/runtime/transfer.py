"""Moves a run between machines in files of limited size.

`pack` writes what a run needs to go on as parts; `unpack` puts it back on the other machine,
where ``--resume auto`` continues.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snac_core.store.weights import read_torch
from snac_core.utils import atomic_files
from trainer.errors import TrainerError
from trainer.runtime import checkpointing

INDEX = "index.json"
PART_BYTES = 15_000_000
SMALLEST_HALVED = 1024
"""Elements from which on a tensor is worth halving; gains, biases and slopes stay exact."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of Adam. Squared gradients span more than float16 does, so these become bfloat16."""

_COPIED = ("metrics.csv", "baseline_metrics.json")


def pack(run: Path, folder: Path, half: bool = False, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write what ``run`` needs to go on into ``folder``; return the files.

    Parameters
    ----------
    run
        The ``output_dir`` of a run that has ended or was stopped.
    folder
        Its parts from an earlier call are replaced.
    half
        Store weights as float16 and Adam's moments as bfloat16: half the bytes, but what
        follows is no longer what would have followed without the transfer, bit for bit.
    part_bytes
        Largest size of a part.

    Raises
    ------
    TrainerError
        When the run has no checkpoint.
    """
    newest = checkpointing.checkpoints(run)
    if not newest:
        raise TrainerError(f"there is no checkpoint in {run} to carry")
    contents: dict[str, Any] = {"checkpoint": read_torch(newest[0])}
    if (run / checkpointing.BEST).exists():
        contents["best"] = read_torch(run / checkpointing.BEST)
    if half:
        contents = _halved(contents)
    contents["files"] = {
        name: (run / name).read_text() for name in _COPIED if (run / name).exists()
    }
    memory = io.BytesIO()
    torch.save(contents, memory)
    data = memory.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("part-*.bin"):
        old.unlink()
    paths: list[Path] = []
    for start in range(0, len(data), part_bytes):
        path = folder / f"part-{len(paths):03d}.bin"
        path.write_bytes(data[start : start + part_bytes])
        paths.append(path)
    index = {
        "parts": [path.name for path in paths],
        "sha256": hashlib.sha256(data).hexdigest(),
        "checkpoint": newest[0].name,
        "step": contents["checkpoint"]["step"],
        "half": half,
    }
    atomic_files.replace(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())
    return [*paths, folder / INDEX]


def unpack(folder: Path, run: Path) -> int:
    """Put what `pack` wrote to ``folder`` back into ``run``; return the step it is at.

    Raises
    ------
    TrainerError
        When a part is missing or differs from what was written.
    """
    index = json.loads((folder / INDEX).read_text())
    missing = [name for name in index["parts"] if not (folder / name).exists()]
    if missing:
        raise TrainerError(f"{folder} lacks {', '.join(missing)}")
    data = b"".join((folder / name).read_bytes() for name in index["parts"])
    if hashlib.sha256(data).hexdigest() != index["sha256"]:
        raise TrainerError(f"the parts in {folder} are damaged, or of different transfers")
    contents = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if index["half"]:
        contents = _restored(contents)
    run.mkdir(parents=True, exist_ok=True)
    for name, text in contents["files"].items():
        (run / name).write_text(text)
    if "best" in contents:
        checkpointing.save(run / checkpointing.BEST, contents["best"])
    # Last, so that an interrupted call leaves no checkpoint without what belongs to it.
    checkpointing.save(run / index["checkpoint"], contents["checkpoint"])
    return int(index["step"])


def _halved(value: Any, key: object = "") -> Any:
    if isinstance(value, Tensor):
        if value.dtype != torch.float32 or value.numel() < SMALLEST_HALVED:
            return value
        return value.to(torch.bfloat16 if key in MOMENTS else torch.float16)
    if isinstance(value, dict):
        return {name: _halved(item, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_halved(item) for item in value)
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if isinstance(value, dict):
        return {name: _restored(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_restored(item) for item in value)
    return value
