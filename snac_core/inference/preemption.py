"""Preempting a long computation between two layers, to compute something short.

A window of a long file keeps a CPU busy for a good part of a second. Whoever schedules windows
can let a clip by in the middle of one, on the same thread, and nothing is computed twice for it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import nn

from snac_core.model.layers import DecoderBlock, EncoderBlock


class PreemptionPoints:
    """Where a model can be preempted: before each part of an up- or downsampling block.

    The inside of a part is never interrupted, so that it can be compiled as one. Parts that
    replace others must be in place before this is created.

    It keeps no reference to the model, so that the model is freed with its last user.
    """

    def __init__(self, model: nn.Module) -> None:
        self._local = threading.local()
        for module in model.modules():
            if isinstance(module, (EncoderBlock, DecoderBlock)):
                for part in module.block:
                    part.register_forward_pre_hook(self.reached)

    @contextlib.contextmanager
    def preemptible(self, callback: Callable[[], None]) -> Iterator[None]:
        """Within the block, call ``callback`` at each of them, but not while it runs itself.

        Other threads that use the model meanwhile are not held up.
        """
        self._local.callback = callback
        try:
            yield
        finally:
            self._local.callback = None

    def reached(self, *_: object) -> None:
        """Call the callback, if there is one: for what computes the model's layers elsewhere."""
        callback: Callable[[], None] | None = getattr(self._local, "callback", None)
        if callback is not None:
            self._local.callback = None
            try:
                # What the callback computes must not take on the precision of what it interrupts.
                with torch.autocast("cpu", enabled=False):
                    callback()
            finally:
                self._local.callback = callback
