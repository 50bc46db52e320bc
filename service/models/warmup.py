"""Warm-up: run each class of input sizes once before a model serves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from snac_core.codec import WINDOW_SECONDS, Codec
from snac_core.streaming import StreamingDecoder, StreamingEncoder
from snac_core.utils.incremental import run_to_end


def warm_up(codec: Codec, on_progress: Callable[[str], None]) -> None:
    """Make the first request as fast as later ones, for clips of each size and for streams.

    Kernels and memory depend on shapes: a word, a sentence, whole windows and, on a GPU, batches
    padded to one length. A GPU may capture a graph when a shape comes for the second time.
    """
    several = () if codec.device.type == "cpu" else ((0.5, 1.0, 2.0, 4.0, 12.0),)
    classes = ((0.5,), (2.0,), (WINDOW_SECONDS + 1.0,), *several)
    for number, lengths in enumerate(classes, start=1):
        on_progress(f"warming up {codec.version}, {number} of {len(classes)}")
        silence = [np.zeros(round(s * codec.sample_rate), np.float32) for s in lengths]
        for _ in range(1 if codec.device.type == "cpu" else 2):
            codec.decode(codec.encode(silence))
    on_progress(f"warming up {codec.version}, quality measures")
    _measure(codec.sample_rate)
    on_progress(f"warming up {codec.version}, streams")
    samples = 4 * codec.config.pad_multiple
    (codes,) = codec.encode([np.zeros(samples, np.float32)])
    StreamingDecoder(codec).feed(codes.levels)
    StreamingEncoder(codec).feed(np.zeros(samples, np.float32))


def _measure(rate: int) -> None:
    """Import SciPy, which takes seconds on a cold disk and only `/v1/reconstruct` needs."""
    from snac_core.quality import log_mel_incremental, si_sdr_incremental, stoi_incremental

    noise = np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32)
    run_to_end(log_mel_incremental(noise, noise, rate))
    run_to_end(stoi_incremental(noise, noise, rate))
    run_to_end(si_sdr_incremental(noise, noise))
