"""How long one-second clips wait while a one-hour file is being encoded, against an idle server.

    python bench/fairness.py [--model starter] [--clips 100] [--rounds 3] [--hours 1]

Starts `snac-service`, and alternates: a number of clips, one after the other, with nothing else
going on; then as many while a long file is in the engine, which is given up after them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import soundfile
from machine import describe
from running import service

from snac_core.audio import encode_bytes

RATE = 24000
MEDIAN_BAR, P99_BAR = 3.0, 6.0


def clip(seed: int) -> bytes:
    """Return a WAV of one second of a gliding tone in noise."""
    at = np.arange(RATE) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.05, RATE)
    tone = 0.4 * np.sin(2 * np.pi * (120 + seed % 200 + 30 * np.sin(3 * at)) * at)
    return encode_bytes((tone + noise).astype(np.float32), RATE)


def write_long(path: Path, hours: float) -> None:
    """Write a WAV of that length, a minute at a time."""
    random = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(round(60 * hours)):
            file.write(0.1 * random.standard_normal(60 * RATE))


def queued(http: httpx.Client) -> float:
    """Return the audio-seconds in the engine and before it."""
    for line in http.get("/metrics").text.splitlines():
        if line.startswith("snac_queue_audio_seconds "):
            return float(line.split()[1])
    raise SystemExit("the service has no snac_queue_audio_seconds")


@contextlib.contextmanager
def long_file(http: httpx.Client, path: Path) -> Iterator[None]:
    """Have the service encode ``path`` while the block runs; then leave it."""
    posting = subprocess.Popen(
        [
            "curl",
            "-sf",
            "-T",
            str(path),
            "-X",
            "POST",
            f"{str(http.base_url).rstrip('/')}/v1/encode",
            "-o",
            os.devnull,
        ]
    )
    try:
        while queued(http) < 60:
            if posting.poll() is not None:
                raise SystemExit("the long file was encoded before it could be looked at")
            time.sleep(0.1)
        yield
        if posting.poll() is not None:
            raise SystemExit("the long file was done before the clips: --clips fewer, --hours more")
    finally:
        posting.kill()
        posting.wait()
    while queued(http) > 0:
        time.sleep(0.1)


def latencies(http: httpx.Client, count: int) -> list[float]:
    """Post clips one after the other; return the seconds that each took."""
    taken = []
    for seed in range(count):
        body = clip(seed)
        started = time.perf_counter()
        http.post("/v1/encode", content=body).raise_for_status()
        taken.append(time.perf_counter() - started)
    return taken


def main() -> int:
    """Print a Markdown table; 0 if the bars are held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--clips", type=int, default=100, help="in each half of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hours", type=float, default=1.0)
    options = parser.parse_args()
    idle: list[float] = []
    beside: list[float] = []
    with tempfile.TemporaryDirectory() as folder, service("--model", options.model) as server:
        path = Path(folder) / "long.wav"
        write_long(path, options.hours)
        with httpx.Client(base_url=server.url, timeout=600) as http:
            latencies(http, 5)
            for _ in range(options.rounds):
                idle += latencies(http, options.clips)
                with long_file(http, path):
                    beside += latencies(http, options.clips)
    print(f"{describe()}; model {options.model}; {len(idle)} clips of 1 s each way\n")
    print("| one-second clips | median | p99 |\n|---|---|---|")
    rows = {"idle server": idle, f"beside a file of {options.hours:g} h": beside}
    figures = {name: np.percentile(taken, [50, 99]) for name, taken in rows.items()}
    for name, (median, p99) in figures.items():
        print(f"| {name} | {1000 * median:.0f} ms | {1000 * p99:.0f} ms |")
    first, second = figures.values()
    ratios = second / first
    print(f"| ratio (at most {MEDIAN_BAR:g} and {P99_BAR:g}) | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return int(ratios[0] > MEDIAN_BAR or ratios[1] > P99_BAR)


if __name__ == "__main__":
    sys.exit(main())
