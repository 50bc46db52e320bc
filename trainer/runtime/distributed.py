"""Distributed training: process groups and the collectives that they use.

One process per GPU, started by `trainer.runtime.launcher` or by torchrun itself:

    snac-trainer train --config C --ddp
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \
        -m trainer train --config C

Each process has its share of every batch. Losses are means over the whole batch, gradients are
averaged, and everything else that decides the weights is computed from what all of them have,
so that any number of processes walks the same path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from snac_core.errors import SnacError
from trainer.errors import TrainerError

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class World:
    """All processes of a run, as one of them sees it; by default it is the only one.

    Parameters
    ----------
    device
        What this process computes on.
    rank
        Its number, from 0.
    size
        How many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and publishes."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Return which places of a batch of ``batch`` segments are this process's."""
        return range(batch * self.rank // self.size, batch * (self.rank + 1) // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of every process's ``values``, of one shape, without gradient."""
        values = values.detach()
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of every process's ``values``, of one shape, without gradient."""
        return self.sum(values) / self.size

    def all_gather_rows(self, rows: Tensor) -> Tensor:
        """Return every process's ``rows``, Tensor[N x ...], one below the other; N may differ."""
        rows = rows.detach()
        if self.size == 1:
            return rows
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)]))
        longest = max(int(count) for count in counts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])

    def gather(self, thing: Any) -> list[Any]:
        """Return every process's ``thing``, in the order of their ranks."""
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing)
        return things

    def broadcast_object(self, thing: Any) -> Any:
        """Return the ``thing`` that the first process has."""
        if self.size == 1:
            return thing
        things = [thing]
        dist.broadcast_object_list(things, src=0, device=torch.device("cpu"))
        return things[0]

    def on_main(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns in the first process; the others wait, however long.

        Raises
        ------
        SnacError, OSError
            In every process what it raised in the first.
        """
        if self.size == 1:
            return work()
        answer: tuple[Result | None, SnacError | OSError | None] = None, None
        # Ordinary exchanges give up after some minutes.
        group = dist.new_group(timeout=datetime.timedelta(days=7), backend="gloo")
        if self.main:
            try:
                answer = work(), None
            except (SnacError, OSError) as error:
                answer = None, error
        things = [answer]
        dist.broadcast_object_list(things, src=0, group=group, device=torch.device("cpu"))
        dist.destroy_process_group(group)
        result, failure = things[0]
        if failure is not None:
            raise failure
        return cast(Result, result)

    @torch.no_grad()
    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Give ``tensors`` the first process's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)

    def wrapped(self, module: nn.Module) -> nn.Module:
        """Return ``module`` so that its gradients are averaged over the processes."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module)


def not_synchronised(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context in which gradients of a `World.wrapped` module stay this process's own."""
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def joined_world(device: str | None) -> Iterator[World]:
    """Join the processes that torchrun started, by its environment; alone without one.

    Parameters
    ----------
    device
        ``"cpu"``, a GPU's number, or what PyTorch calls it; None takes the GPU of the process's
        local rank if there are any. With several processes, they share one kind of device and
        only ``"cpu"`` makes sense besides None.

    Raises
    ------
    TrainerError
        When there is no such device.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World(device_called(device))
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if device is None and torch.cuda.is_available():
        device = os.environ.get("LOCAL_RANK", "0")
    elif size > 1 and device not in (None, "cpu", "cuda"):
        raise TrainerError(f"each of {size} processes has a device of its own, not all {device!r}")
    elif device == "cuda":
        device = os.environ.get("LOCAL_RANK", "0")
    chosen = device_called(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    _join("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", chosen)
    try:
        yield World(chosen, rank, size)
    finally:
        dist.destroy_process_group()


def _join(backend: str, device: torch.device) -> None:
    """Make this process one of those that torchrun started."""
    store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # On one machine the store outlives the processes, and processes that are started again
        # would find the addresses of those that died. (On several, machines count for themselves
        # how often they have started, so that there is no name that all of them know.)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]
    dist.init_process_group(
        backend,
        store=store,
        rank=rank,
        world_size=size,
        device_id=device if device.type == "cuda" else None,
    )


def device_called(name: str | None) -> torch.device:
    """Return the named device: a GPU's number, or what PyTorch calls it; by default a GPU.

    Raises
    ------
    TrainerError
        When there is none of that name.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{name}" if name.isdigit() else name)
    except RuntimeError as error:
        raise TrainerError(f"no device is called {name!r}; try 0 or cpu") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainerError(f"there is no {device} here: {torch.cuda.device_count()} GPUs")
    return device


def restarted() -> bool:
    """Whether torchrun started this process anew after one had failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def process_count(wanted: int | None, device: str | None) -> int:
    """Return how many processes ``--ddp`` or ``--nproc wanted`` mean on this machine.

    Raises
    ------
    TrainerError
        When there are fewer GPUs than that, or none to count.
    """
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if wanted is None:
        if not gpus:
            raise TrainerError("--ddp starts a process per GPU and there is none; try --nproc 2")
        return gpus
    if wanted < 1:
        raise TrainerError(f"--nproc must be 1 or more, not {wanted}")
    if gpus and wanted > gpus:
        raise TrainerError(f"--nproc {wanted} needs as many GPUs; there are {gpus}")
    return wanted


def is_worker() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ
