"""Codecs whose batches can be held back, observed and made to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from snac_core.codec import Codec
from snac_core.inference.jobs import Step
from snac_core.types import Samples

SamplesOf = Callable[..., Samples]


class CodecSpy:
    """A wrapped codec: `run` waits for ``gate``, records its steps and raises ``fail(steps)``."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.runs: list[list[Step]] = []
        self.fail: Callable[[Sequence[Step]], BaseException | None] = lambda steps: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def run(self, steps: Sequence[Step]) -> None:
        self.entered.set()
        assert self.gate.wait(300)
        self.runs.append(list(steps))
        error = self.fail(steps)
        if error is not None:
            raise error
        self._codec.run(steps)


class Gate:
    """Holds back the batches of a codec that is in use, and keeps count of all.

    Parameters
    ----------
    codec
        The codec, whose `run` goes through the gate within the block.
    kinds
        The kinds of steps that wait while the gate is closed; without any, all do.
    """

    def __init__(self, codec: Any, *kinds: str) -> None:
        self.codec, self.kinds, self._run = codec, kinds, codec.run
        self.free = threading.Event()
        if not kinds:
            self.free.set()
        self.runs: list[str] = []
        self.sizes: list[int] = []

    def __enter__(self) -> Gate:
        def run(steps: Any) -> None:
            self.sizes.append(len(steps))
            self.runs.append(steps[0].kind)
            if not self.kinds or steps[0].kind in self.kinds:
                assert self.free.wait(300)
            self._run(steps)

        self.codec.run = run
        return self

    def __exit__(self, *error: object) -> None:
        self.free.set()
        del self.codec.run
