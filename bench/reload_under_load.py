"""Publish versions, one of them corrupt, while clients post clips of mixed lengths.

    python bench/reload_under_load.py [--model starter] [--clients 16] [--seconds 30]

Starts `snac-service` on a copy of the model in a store of its own, and prints how many
requests were sent, how many failed, and which versions answered.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
from versions import another_decoder, watching

from snac_core.audio import encode_bytes
from snac_core.store import ModelStore
from snac_core.store.checkpoint import Checkpoint, read

SHORTEST, LONGEST = 0.3, 6.0


class Tally:
    """What the clients saw, counted under a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent = 0
        self.failures: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.seconds: list[float] = []

    def add(self, failure: str | None, version: str | None, seconds: float) -> None:
        """Count one request."""
        with self._lock:
            self.sent += 1
            self.seconds.append(seconds)
            if failure is not None:
                self.failures[failure] += 1
            if version is not None:
                self.versions[version] += 1


def clip(seconds: float, rate: int, seed: int) -> bytes:
    """Return a WAV of a gliding tone in noise."""
    at = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.05, len(at))
    tone = 0.4 * np.sin(2 * np.pi * (120 + seed + 30 * np.sin(3 * at)) * at)
    return encode_bytes((tone + noise).astype(np.float32), rate)


def client(url: str, rate: int, seed: int, until: float, tally: Tally) -> None:
    """Encode clips and decode what comes back, until the time is over."""
    lengths = random.Random(seed)
    with httpx.Client(base_url=url, timeout=120) as http:
        content: bytes | None = None
        while time.monotonic() < until:
            path = "/v1/encode" if content is None else "/v1/decode"
            body = content or clip(lengths.uniform(SHORTEST, LONGEST), rate, seed)
            started = time.monotonic()
            try:
                answer = http.post(path, content=body)
            except httpx.HTTPError as error:
                tally.add(type(error).__name__, None, time.monotonic() - started)
                content = None
                continue
            failure = None if answer.is_success else f"{path} {answer.status_code}"
            version = answer.headers.get("X-Model-Version")
            tally.add(failure, version, time.monotonic() - started)
            content = answer.content if path == "/v1/encode" and answer.is_success else None


def publish_corrupt(store: ModelStore, checkpoint: Checkpoint, seed: int) -> str:
    """Publish a version with one byte of its weights flipped before anybody looks."""
    version = store.publish(
        checkpoint.config, another_decoder(checkpoint, seed), make_current=False
    )
    weights = store.path(version) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 0xFF
    weights.write_bytes(data)
    pointer = store.root / "damaged"
    pointer.write_text(json.dumps({"version": version, "previous": store.current()}))
    pointer.replace(store.root / "current.json")
    return version


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter", help="what the versions are made from")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    checkpoint = read(options.model)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Path(folder))
        names = {store.publish(checkpoint.config, checkpoint.weights): "first"}
        with watching(store) as (url, _):
            started = time.monotonic()
            threads = [
                threading.Thread(
                    target=client,
                    args=(
                        url,
                        checkpoint.config.sampling_rate,
                        seed,
                        started + options.seconds,
                        tally,
                    ),
                )
                for seed in range(options.clients)
            ]
            for thread in threads:
                thread.start()
            for turn, name in enumerate(("second", "corrupt", "third"), start=1):
                time.sleep(max(0.0, started + options.seconds * turn / 4 - time.monotonic()))
                if name == "corrupt":
                    version = publish_corrupt(store, checkpoint, turn)
                else:
                    version = store.publish(checkpoint.config, another_decoder(checkpoint, turn))
                names[version] = name
                print(f"{time.monotonic() - started:5.1f} s  published {name}: {version}")
            for thread in threads:
                thread.join()
            listed = httpx.get(f"{url}/v1/models").json()["models"]
    latencies = np.percentile(tally.seconds, [50, 99])
    print(f"\n{options.clients} clients, {options.seconds:g} s, clips of {SHORTEST}-{LONGEST} s")
    print(f"requests sent    {tally.sent}")
    print(f"requests failed  {sum(tally.failures.values())} {dict(tally.failures)}")
    print(f"latency          p50 {latencies[0]:.3f} s, p99 {latencies[1]:.3f} s")
    for version, name in names.items():
        print(f"answered by      {tally.versions[version]:6} {name:8} {version}")
    for model in listed:
        print(f"listed as        {model['state']:9} {model['version']} {model['reason'] or ''}")
    corrupt = next(version for version, name in names.items() if name == "corrupt")
    lost = sum(tally.failures.values()) + tally.versions[corrupt]
    unseen = [name for version, name in names.items() if not tally.versions[version]]
    return 0 if not lost and unseen == ["corrupt"] else 1


if __name__ == "__main__":
    sys.exit(main())
