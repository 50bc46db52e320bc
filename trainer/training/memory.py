"""Estimates a run's memory by measuring one of its own steps on short audio on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from snac_core.model import SNAC
from trainer.config import TrainConfig, curriculum
from trainer.runtime.distributed import World
from trainer.training.batches import Batch
from trainer.training.learner import Learner

SECONDS = (0.25, 0.5)
"""Of audio in the two steps that are watched; what they differ by is what a second takes."""


def memory(config: TrainConfig, model: SNAC, processes: int = 1) -> int:
    """Return the peak bytes of a process's tensors in a step on its largest batch.

    The most that lives at a time in one step: weights, gradients, optimizers, averages, what the
    backward pass keeps, and what it computes meanwhile. Not in it is what CUDA and its libraries
    take for themselves.

    Parameters
    ----------
    config
        Of the run.
    model
        On the CPU; it is not changed.
    processes
        How many divide each batch.
    """
    parts = processes * config.accumulate
    largest = max(plan.length * -(-plan.batch // parts) for plan in curriculum.plans(config))
    rate = model.config.sampling_rate
    samples = [model.config.padded_samples(round(seconds * rate)) for seconds in SECONDS]
    if samples[0] == samples[1]:
        samples[1] *= 2
    peaks = [peak_bytes(config, model, count) for count in samples]
    each = (peaks[1] - peaks[0]) / (samples[1] - samples[0])
    total = peaks[0] + each * (largest * rate - samples[0])
    if processes > 1:
        # Gradients are averaged in buffers of their own.
        total += 4 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return int(total)


def peak_bytes(config: TrainConfig, model: SNAC, samples: int) -> int:
    """Return the peak bytes of live tensors in a step on one segment."""
    config = config.model_copy(
        update={"kernels": "off", "compile": False, "accumulate": 1, "discriminator_every": 1}
    )
    config = config.model_copy(
        update={"discriminator_warmup_steps": 0, "discriminator_checkpoint": None}
    )
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    held = sum(value.untyped_storage().nbytes() for value in model.state_dict().values())
    audio = 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0))
    watch = _Watch()
    with watch:
        learner = Learner(config, model, World(torch.device("cpu")))
        learner.step(Batch(audio, torch.ones_like(audio), torch.zeros(1, dtype=torch.int64)), 0, 2)
    model.load_state_dict(weights)
    model.zero_grad(set_to_none=True)
    return int(held) + watch.peak


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of live storages that operations create."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak, self._now = 0, 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and take note of what it made."""
        made = func(*args, **(kwargs or {}))
        # What an operation was given may be older than this.
        given: set[int] = set()
        tree_map_only(Tensor, lambda one: given.add(one.untyped_storage()._cdata), (args, kwargs))
        tree_map_only(Tensor, lambda one: self._see(one, given), made)
        return made

    def _see(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive or key in given:
            return
        self._alive.add(key)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size
