"""The state that a stream keeps between its steps."""

from __future__ import annotations

import dataclasses
import threading
from typing import NamedTuple

import torch
from torch import Tensor

from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise

OPEN = 2**62
"""The end of a clip whose end is not known yet."""


@dataclasses.dataclass(frozen=True)
class StreamContext:
    """One call of a streaming network: the position of each stream, and its state.

    Parameters
    ----------
    now
        Tensor[B] of int64: the sample, counted from the clip's start, that each stream's
        input begins with.
    end
        Tensor[B] of int64: samples of each clip; `OPEN` while that is not known.
    edges
        Whether any layer can meet positions outside of a clip; False costs nothing.
    noise
        Where decoder noise comes from, or ``"off"``; its ``start`` is not read.
    before, after
        Tensor[B x S]: the layers' state, and the buffer for their next state.
    """

    now: Tensor
    end: Tensor
    edges: bool
    noise: Noise | str
    before: Tensor
    after: Tensor

    def mask(self, x: Tensor, timing: LayerTiming) -> Tensor:
        """Zero what lies outside each clip in ``x``, Tensor[B x C x T]."""
        if not self.edges:
            return x
        inside = self.inside(x.shape[-1], timing)[:, None, :]
        # `where`, not a product: garbage outside may have overflowed.
        return torch.where(inside, x, torch.zeros((), dtype=x.dtype, device=x.device))

    def inside(self, length: int, timing: LayerTiming) -> Tensor:
        """Return Tensor[B x length] of which positions lie in each clip."""
        first = self.now // timing.unit - timing.delay
        positions = first[:, None] + torch.arange(length, device=self.now.device)
        return (positions >= 0) & (positions < (self.end // timing.unit)[:, None])

    def batch_context(self, x: Tensor, timing: LayerTiming) -> BatchContext:
        """Return where the noise for ``x``, Tensor[B x C x T], comes from."""
        noise = self.noise
        if isinstance(noise, Noise):
            noise = dataclasses.replace(noise, start=self.now - timing.delay * timing.unit)
        return BatchContext(x.shape[-1] * timing.unit, noise=noise)

    def past(self, state: StateSlice) -> Tensor:
        """Return a layer's state, Tensor[B x channels x positions]."""
        held = self.before[:, state.start : state.start + state.size]
        return held.reshape(-1, state.channels, state.positions)

    def keep(self, state: StateSlice, x: Tensor) -> None:
        """Store ``x`` as the next state, Tensor[B x channels x positions]."""
        self.after[:, state.start : state.start + state.size] = x.flatten(1)

    def joined(self, state: StateSlice, x: Tensor) -> Tensor:
        """Return ``x`` with what came before it, and remember as much of the newest."""
        if not state.positions:
            return x
        whole = torch.cat((self.past(state), x), dim=-1)
        self.keep(state, whole[..., -state.positions :])
        return whole


class LayerTiming(NamedTuple):
    """The rate and the delay of a layer's input."""

    unit: int
    """Samples per position."""
    delay: int
    """Positions by which it is delayed."""


class StateSlice(NamedTuple):
    """A layer's part of a stream's state."""

    start: int
    channels: int
    positions: int

    @property
    def size(self) -> int:
        """Numbers in it."""
        return self.channels * self.positions


class StatePool:
    """The state of each stream of a network: a slot of one tensor, which grows.

    The thread that starts a stream acquires a slot; the thread that runs steps, which may be
    another, reads and writes it.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._states = torch.empty(0, size, device=device)
        self._free: list[int] = []
        self._lock = threading.Lock()

    @property
    def capacity(self) -> int:
        """Slots, in use or not."""
        return len(self._states)

    def acquire(self) -> int:
        """Return a free slot, with undefined contents."""
        with self._lock:
            if not self._free:
                self._grow()
            return self._free.pop()

    def release(self, slot: int) -> None:
        """Free ``slot`` for another stream."""
        # Without the lock: the garbage collector may call this in a thread that holds it.
        self._free.append(slot)

    def read(self, slots: Tensor) -> Tensor:
        """Return Tensor[B x S] of the rows that Tensor[B] of int64 names."""
        with self._lock:
            return self._states.index_select(0, slots)

    def write(self, slots: Tensor, values: Tensor) -> None:
        """Put Tensor[B x S] into the rows that Tensor[B] of int64 names."""
        with self._lock:
            self._states.index_copy_(0, slots, values)

    def _grow(self) -> None:
        old = len(self._states)
        grown = self._states.new_zeros(max(4, 2 * old), self._states.shape[1])
        grown[:old] = self._states
        self._states = grown
        self._free.extend(range(len(grown) - 1, old - 1, -1))
