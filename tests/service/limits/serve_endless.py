"""Run the service with recordings that never end: ``serve_endless.py MODEL SAMPLE_RATE``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from service.cli import main
from snac_core.audio.source import BLOCK_SAMPLES, SoundSource

mono_blocks = SoundSource.mono_blocks


def endless(source: SoundSource) -> Iterator[Any]:
    """Yield the recording, then silence for ever if it has the given sample rate."""
    yield from mono_blocks(source)
    while source.sample_rate == int(sys.argv[2]):
        yield np.zeros(BLOCK_SAMPLES, np.float32)


if __name__ == "__main__":
    SoundSource.mono_blocks = endless  # type: ignore[assignment, method-assign]
    sys.exit(main(["--port", "0", "--model", sys.argv[1]]))
