"""Several processes that train one model together: who they are, and what they tell each other.

One process per GPU, started by torchrun's own launcher (`launch`) or by torchrun itself:

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
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.nn.parallel import DistributedDataParallel

from trainer.errors import TrainerError

ENDED = "SNAC_TRAINER_ENDED"
"""Environment variable: the file by which the first process tells the launcher that it is done."""

SAVING_SECONDS = 120
"""How long processes that were asked to stop may take to save."""


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


def launch(arguments: Sequence[str], processes: int, restarts: int) -> None:
    """Run ``python -m trainer ARGUMENTS`` in several processes and wait until they end.

    A signal that ends this process is passed on to them, and they save.

    Raises
    ------
    TrainerError
        When one of them fails more than ``restarts`` times, or they do not end in time.
    """
    options = torchrun.parse_args(  # type: ignore[no-untyped-call]
        [
            "--standalone",
            f"--nproc-per-node={processes}",
            f"--max-restarts={restarts}",
            f"--shutdown-timeout={SAVING_SECONDS}",
            *("-m", "trainer"),
            *arguments,
        ]
    )
    with tempfile.TemporaryDirectory(prefix="snac-trainer-") as folder:
        ended = Path(folder) / "ended"
        os.environ[ENDED] = str(ended)
        try:
            torchrun.run(options)  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            raise TrainerError(
                f"training process {failure.local_rank} of {processes} failed "
                f"(exit code {failure.exitcode}); what it said is above"
            ) from error
        except SignalException as error:
            if not ended.exists():
                raise TrainerError(
                    f"stopped by signal {int(error.sigval)} before all processes had saved"
                ) from error


def tell_launcher() -> None:
    """Let `launch` know that the run has ended as it should."""
    if ENDED in os.environ:
        Path(os.environ[ENDED]).touch()


def is_worker() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ
