"""Short clips beside a long file, counted in windows of the long file and not in seconds."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tests.support.http_raw import post
from tests.support.waiting import wait_for

CLIPS = 5


def queued(running: Any) -> float:
    return float(running.metric("snac_queue_audio_seconds"))


def more_than(before: float, running: Any) -> bool:
    return queued(running) > before


def test_each_clip_is_answered_within_one_window_of_a_long_file(
    serve: Any, model_ref: str, wav_of: Any, samples_of: Any
) -> None:
    """The long file gets one more window for each clip, and no other until that is answered."""
    minutes = wav_of(np.zeros(600 * 24000, np.float32), format="FLAC", subtype="PCM_16")
    with serve(model=model_ref, device="cpu") as running:
        codec = running.service.models.codec
        run, windows, waiting = codec.run, threading.Semaphore(0), threading.Event()
        finished = threading.Event()

        def in_turns(steps: Any) -> None:
            if len(steps[0].job.windows) > 1 and not finished.is_set():
                waiting.set()
                assert windows.acquire(timeout=300)
            run(steps)

        codec.run = in_turns
        try:
            with post(running, "/v1/encode", minutes), ThreadPoolExecutor(1) as pool:
                assert waiting.wait(300)
                whole = queued(running)
                assert whole > 600
                for turn in range(CLIPS):
                    waiting.clear()
                    before = queued(running)
                    clip = wav_of(samples_of(1.0, turn))
                    answer = pool.submit(running.http.post, "/v1/encode", content=clip)
                    wait_for(functools.partial(more_than, before, running))
                    assert not answer.done()
                    windows.release()
                    assert answer.result().status_code == 200
                    assert waiting.wait(300)
                assert queued(running) > 0.9 * whole
                assert running.metric('snac_batch_items_sum{kind="encode"}') == 2 * CLIPS
        finally:
            finished.set()
            windows.release()
        wait_for(lambda: queued(running) == 0)
