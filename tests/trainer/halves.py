"""A batch divided between two processes, without the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from trainer.losses.losses import GlobalCount

T = TypeVar("T")


class Sharing(Protocol):
    """What shares its counts with other processes."""

    global_count: GlobalCount | None


def shared_counts(owner: Sharing, runs: Sequence[Callable[[], T]]) -> list[T]:
    """Return what each run returns when every one gets the mean of all runs' counts."""
    counts: list[Tensor] = []

    def note(count: Tensor) -> Tensor:
        counts.append(count)
        return count

    owner.global_count = note
    for run in runs:
        run()
    # One exchange in a run, or processes would wait for each other for nothing.
    assert len(counts) == len(runs)
    mean = torch.stack(counts).mean(dim=0)
    owner.global_count = lambda _: mean
    results = [run() for run in runs]
    owner.global_count = None
    return results
