"""Mixed load for minutes, with reloads and faults; then one table of what was held and lost.

    python bench/soak.py [--minutes 10] [--model starter] [--clients 16] [--streams 2]

Starts `snac-service` on a copy of the model in a store of its own. Clients encode, decode and
reconstruct clips of mixed lengths, alone and in batches, and leave in the middle; others send
what cannot be read; streams decode token by token; versions are published all the while, some of
them corrupt, and a publisher is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import numpy.random  # it comes when asked for, and not to several threads at once
import psutil
from machine import describe
from versions import another_decoder, watching

from snac_core.audio import encode_bytes
from snac_core.client import ProblemError, SnacClient
from snac_core.config import SnacConfig
from snac_core.errors import StoreError
from snac_core.layouts import to_layout
from snac_core.store import ModelStore
from snac_core.store.checkpoint import Checkpoint, read

SHORTEST, LONGEST = 0.3, 8.0
MIB = 2**20
SETTLED = 0.2
"""Part of the time after which memory is looked at first: caches and the heap have filled."""
QUIET = 10
"""Percentile of memory that is compared: a second model, or bodies on their way, come and go
above it, and what is lost never goes."""


@dataclasses.dataclass
class Tally:
    """What the clients saw, counted under a lock."""

    sent: Counter[str] = dataclasses.field(default_factory=Counter)
    failed: Counter[str] = dataclasses.field(default_factory=Counter)
    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    audio: float = 0.0
    refused: int = 0
    versions: set[str] = dataclasses.field(default_factory=set)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def add(self, kind: str, answer: httpx.Response | None, audio: float, took: float) -> None:
        """Count one request; None for one that got no answer."""
        with self._lock:
            self.sent[kind] += 1
            self.seconds.setdefault(kind, []).append(took)
            status = answer.status_code if answer is not None else 0
            if status == 200:
                self.audio += audio
            elif status == 429:
                self.refused += 1
            else:
                self.failed[f"{kind} {status or 'no answer'}"] += 1
            if answer is not None and "X-Model-Version" in answer.headers:
                self.versions.add(answer.headers["X-Model-Version"])

    def add_bad(self, status: int) -> None:
        """Count something that could not be read, and ought to be refused."""
        with self._lock:
            self.sent["bad input"] += 1
            if not 400 <= status < 500:
                self.failed[f"bad input {status}"] += 1


def clip(seconds: float, rate: int, seed: int) -> bytes:
    """Return a WAV of a gliding tone in noise."""
    at = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.05, len(at))
    tone = 0.4 * np.sin(2 * np.pi * (120 + seed % 100 + 30 * np.sin(3 * at)) * at)
    return encode_bytes((tone + noise).astype(np.float32), rate)


class Load:
    """Clients of every kind, each a thread, until the time is over."""

    def __init__(
        self, url: str, config: SnacConfig, until: float, tally: Tally, pause: float
    ) -> None:
        self.url, self.config, self.until, self.tally = url, config, until, tally
        self.pause = pause
        self.rate = config.sampling_rate

    def talk(self, seed: int) -> None:
        """Encode clips and decode, reconstruct or leave; batches now and then."""
        chance = random.Random(seed)
        with httpx.Client(base_url=self.url, timeout=300) as http:
            while time.monotonic() < self.until:
                time.sleep(self.pause)
                seconds = chance.uniform(SHORTEST, LONGEST)
                wav = clip(seconds, self.rate, chance.randrange(1000))
                encoded = self._post(http, "encode", "/v1/encode", seconds, content=wav)
                draw = chance.random()
                if draw < 0.6 and encoded is not None and encoded.is_success:
                    body = encoded.content
                    self._post(http, "decode", "/v1/decode", seconds, content=body)
                elif draw < 0.7:
                    self._post(http, "reconstruct", "/v1/reconstruct", seconds, content=wav)
                elif draw < 0.8:
                    files = [("files", ("a.wav", wav))] * 4
                    self._post(http, "batch", "/v1/encode/batch", 4 * seconds, files=files)
                elif draw < 0.85:
                    self._leave(wav)

    def misbehave(self, seed: int) -> None:
        """Send what cannot be read, a few times a second."""
        chance = random.Random(seed)
        with httpx.Client(base_url=self.url, timeout=300) as http:
            while time.monotonic() < self.until:
                wav = clip(0.3, self.rate, seed)
                path, body = chance.choice(
                    (
                        ("/v1/encode", chance.randbytes(500)),
                        ("/v1/encode", wav[: chance.randrange(44)]),
                        ("/v1/decode", b'{"codes": [[1], [2, 4096], [3, 4, 5, 6]]}'),
                        ("/v1/decode", b"[" * 5000),
                        ("/v1/decode", chance.randbytes(300)),
                    )
                )
                with contextlib.suppress(httpx.HTTPError):
                    self.tally.add_bad(http.post(path, content=body).status_code)
                time.sleep(0.3 + self.pause)

    def stream(self, seed: int) -> None:
        """Decode token by token over a WebSocket, again and again."""
        chance = random.Random(seed)
        with SnacClient(self.url) as client:
            while time.monotonic() < self.until:
                time.sleep(self.pause)
                seconds = chance.uniform(1.0, LONGEST)
                codes = client.encode(clip(seconds, self.rate, seed)).codes
                tokens = to_layout(codes.levels, "flat", config=self.config)
                frame = sum(self.config.codes_per_frame)
                frames = (tokens[at : at + frame] for at in range(0, len(tokens), frame))
                started, made = time.monotonic(), 0
                with contextlib.suppress(OSError, httpx.HTTPError, ProblemError):
                    for samples in client.stream_decode(
                        frames, "flat", num_samples=codes.num_samples
                    ):
                        made += len(samples)
                answer = httpx.Response(200) if made == codes.num_samples else None
                self.tally.add("stream", answer, seconds, time.monotonic() - started)

    def _post(
        self, http: httpx.Client, kind: str, path: str, audio: float, **what: object
    ) -> httpx.Response | None:
        started = time.monotonic()
        answer = None
        with contextlib.suppress(httpx.HTTPError):
            answer = http.post(path, **what)  # type: ignore[arg-type]
        self.tally.add(kind, answer, audio, time.monotonic() - started)
        if answer is not None and answer.status_code == 429:
            time.sleep(min(float(answer.headers["Retry-After"]), 5.0))
        return answer

    def _leave(self, wav: bytes) -> None:
        """Post a clip and go away before the answer."""
        url = httpx.URL(self.url)
        head = f"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wav)}\r\n\r\n"
        with (
            contextlib.suppress(OSError),
            socket.create_connection((url.host, url.port or 80)) as leaving,
        ):
            leaving.sendall(head.encode() + wav)
            self.tally.sent["left early"] += 1


class Faults:
    """Versions, whole and corrupt, and a publisher that is killed."""

    def __init__(self, store: ModelStore, model: str) -> None:
        self.store, self.model = store, model
        self.checkpoint: Checkpoint = read(model)
        self.done: Counter[str] = Counter()

    def commit(self, turn: int) -> None:
        """Do the next one."""
        kinds: list[Callable[[int], None]] = [self.publish, self.roll_back, self.corrupt, self.kill]
        kinds[turn % len(kinds)](turn)

    def publish(self, turn: int) -> None:
        """Publish a good version."""
        self.store.publish(self.checkpoint.config, another_decoder(self.checkpoint, turn))
        self.store.prune(4)
        self.done["version published"] += 1

    def roll_back(self, turn: int) -> None:
        """Return to the version before, unless that is one of the corrupt ones."""
        try:
            self.store.roll_back()
        except StoreError:
            self.done["roll back to a corrupt version refused"] += 1
        else:
            self.done["rolled back"] += 1

    def corrupt(self, turn: int) -> None:
        """Publish a version with one byte flipped."""
        weights = another_decoder(self.checkpoint, turn)
        version = self.store.publish(self.checkpoint.config, weights, make_current=False)
        path = self.store.path(version) / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-5] ^= 0xFF
        path.write_bytes(data)
        pointer = self.store.root / "damaged"
        pointer.write_text(json.dumps({"version": version, "previous": self.store.current()}))
        pointer.replace(self.store.root / "current.json")
        self.done["corrupt version published"] += 1

    def kill(self, turn: int) -> None:
        """Kill a publisher in the middle of its writing."""
        script = (
            "import sys; from pathlib import Path\n"
            "from snac_core.store.checkpoint import read; from snac_core.store import ModelStore\n"
            "c = read(sys.argv[2]); print(flush=True)\n"
            "while True: ModelStore(Path(sys.argv[1])).publish("
            "c.config, c.weights, make_current=False)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(self.store.root), self.model],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.Random(turn).uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.done["publisher killed"] += 1


def metric(url: str, name: str) -> float:
    """Return the sum of a metric's samples."""
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def main() -> int:
    """Print a Markdown table; 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--model", default="starter", help="what the versions are made from")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two faults")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each request")
    options = parser.parse_args()
    checkpoint = read(options.model)
    tally = Tally()
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Path(folder))
        store.publish(checkpoint.config, checkpoint.weights)
        faults = Faults(store, options.model)
        with watching(store, quiet=True) as (url, pid):
            process = psutil.Process(pid)
            started = time.monotonic()
            seconds = 60 * options.minutes
            load = Load(url, checkpoint.config, started + seconds, tally, options.pause)
            kinds = [load.talk] * options.clients + [load.stream] * options.streams
            threads = [
                threading.Thread(target=kind, args=(seed,))
                for seed, kind in enumerate([*kinds, load.misbehave])
            ]
            for thread in threads:
                thread.start()
            turn = 0
            while (elapsed := time.monotonic() - started) < seconds:
                memory.append(process.memory_info().rss / MIB)
                if elapsed > options.every * (turn + 1):
                    faults.commit(turn)
                    turn += 1
                time.sleep(1.0)
            for thread in threads:
                thread.join()
            took = time.monotonic() - started
            report(options, tally, faults, memory, took, url)
            ready = httpx.get(f"{url}/health/ready").is_success
    return int(bool(tally.failed) or not ready)


def report(
    options: argparse.Namespace,
    tally: Tally,
    faults: Faults,
    memory: list[float],
    took: float,
    url: str,
) -> None:
    """Print the table."""
    settled = memory[int(SETTLED * len(memory)) :]
    first, last = (np.percentile(half, QUIET) for half in np.array_split(settled, 2))
    print(f"{describe()}; model {options.model}; {took / 60:.1f} min\n")
    print("| | |\n|---|---|")
    print(
        f"| clients | {options.clients} posting, {options.streams} streaming, 1 sending rubbish |"
    )
    print(f"| audio | {tally.audio / took:.1f} audio-seconds per second |")
    for kind, found in sorted(tally.seconds.items()):
        p50, p99 = np.percentile(found, [50, 99])
        print(f"| {kind} | {tally.sent[kind]} requests, p50 {p50:.2f} s, p99 {p99:.2f} s |")
    print(f"| bad inputs | {tally.sent['bad input']}, all refused with 4xx unless listed below |")
    print(f"| left early | {tally.sent['left early']} |")
    print(f"| 429 | {tally.refused} |")
    for fault, count in faults.done.items():
        print(f"| {fault} | {count} |")
    good, bad = (
        metric(url, f'snac_reload_total{{outcome="{outcome}"}}')
        for outcome in ("succeeded", "failed")
    )
    print(f"| reloads | {good:.0f} succeeded, {bad:.0f} failed and kept the old model |")
    print(f"| versions that answered | {len(tally.versions)} |")
    growth = 100 * (last / first - 1)
    print(
        f"| memory when little is under way | {first:.0f} MiB in the first half after settling, "
        f"{last:.0f} MiB in the second ({growth:+.1f} %) |"
    )
    tenths = [f"{np.median(part):.0f}" for part in np.array_split(memory, 10) if len(part)]
    print(f"| memory in each tenth of the time, median, MiB | {', '.join(tenths)} |")
    print(f"| memory at most | {max(memory):.0f} MiB |")
    print(f"| lost | {sum(tally.failed.values())} {dict(tally.failed) or ''} |")


if __name__ == "__main__":
    sys.exit(main())
