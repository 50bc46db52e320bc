"""Two engines in one process, or a process for each: the same cores, the same clips.

    python bench/workers.py [--model starter] [--seconds 20] [--rounds 3] [--threads N]

Each engine is fed as a service feeds it: files are read, encoded and written as JSON in threads.
One engine with all torch threads is measured against two with half of them each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import torch

import snac_core
from service.engine.engine import Engine
from service.observability.metrics import Metrics
from snac_core import audio
from snac_core.codec import Codec

RATE = 24000
CLIENTS = 8
CLIP_SECONDS = (0.5, 1.0, 2.0, 4.0)


class ThreadedCodec:
    """A codec that computes with a number of threads of its own, whoever calls it."""

    def __init__(self, model: str, threads: int) -> None:
        self._codec = snac_core.load(model, "cpu")
        self._threads = threads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def run(self, steps: Any) -> None:
        """As `Codec.run`; OpenMP counts threads for each calling thread."""
        torch.set_num_threads(self._threads)
        self._codec.run(steps)


def bodies() -> list[bytes]:
    """Return WAV files of several lengths."""
    random = np.random.default_rng(0)
    return [
        audio.encode_bytes(random.normal(0, 0.1, round(s * RATE)).astype(np.float32), RATE)
        for s in CLIP_SECONDS
    ]


def feed(codec: Codec, engine: Engine, files: list[bytes], until: float) -> float:
    """Encode files one after the other until then; return their audio-seconds."""
    done = 0.0
    turn = 0
    while time.monotonic() < until:
        samples = audio.read(files[turn % len(files)], codec.sample_rate)
        job = codec.encode_job(samples)
        engine.submit(codec, job).result()
        json.dumps(job.result().to_dict())
        done += len(samples) / codec.sample_rate
        turn += 1
    return done


def throughput(model: str, engines: int, threads: int, seconds: float, ready: Any) -> float:
    """Run engines in this process, each with its clients; return audio-seconds per second."""
    codecs: list[Any] = [ThreadedCodec(model, threads) for _ in range(engines)]
    running = [Engine(8.0, 1e6, Metrics()) for _ in codecs]
    for codec, engine in zip(codecs, running, strict=True):
        engine.start()
        engine.submit(codec, codec.encode_job(np.zeros(RATE, np.float32))).result()
    files = bodies()
    ready.wait()
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(CLIENTS * engines) as pool:
        clients = [
            pool.submit(feed, codec, engine, files, until)
            for codec, engine in zip(codecs, running, strict=True)
            for _ in range(CLIENTS)
        ]
        done = sum(client.result() for client in clients)
    for engine in running:
        engine.close()
    return done / seconds


def in_processes(model: str, count: int, threads: int, seconds: float) -> float:
    """Run one engine in each of several processes; return audio-seconds per second of all."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(count), context.SimpleQueue()
    processes = [
        context.Process(target=_child, args=(model, threads, seconds, ready, results))
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    total = sum(float(results.get()) for _ in processes)
    for process in processes:
        process.join()
    return total


def _child(model: str, threads: int, seconds: float, ready: Barrier, results: Any) -> None:
    results.put(throughput(model, 1, threads, seconds, ready))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    half = max(1, options.threads // 2)
    alone = threading.Event()
    alone.set()
    ways: dict[str, Callable[[], float]] = {
        f"one process, one engine of {options.threads} threads": lambda: throughput(
            options.model, 1, options.threads, options.seconds, alone
        ),
        f"one process, two engines of {half}": lambda: throughput(
            options.model, 2, half, options.seconds, alone
        ),
        f"two processes, an engine of {half} each": lambda: in_processes(
            options.model, 2, half, options.seconds
        ),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, measure in ways.items():
            rates[way].append(measure())
    medians = {way: statistics.median(found) for way, found in rates.items()}
    first = next(iter(medians.values()))
    print(f"{options.threads} cores; model {options.model}; {options.rounds} rounds\n")
    print("| | audio-seconds per second | against the first |\n|---|---|---|")
    for way, rate in medians.items():
        print(f"| {way} | {rate:.1f} | {rate / first:.2f} |")


if __name__ == "__main__":
    main()
