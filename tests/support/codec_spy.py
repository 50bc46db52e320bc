"""A codec whose batches can be held back, observed and made to fail."""

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
