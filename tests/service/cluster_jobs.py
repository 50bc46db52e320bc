"""The service on Ray Serve: ``make clusters`` runs this, as it takes minutes."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from torch import Tensor

import snac_core
from snac_core.client import SnacClient
from snac_core.config import SnacConfig
from snac_core.layouts import to_layout
from snac_core.store import ModelStore
from tests.support.models import noise
from tests.support.waiting import wait_for

pytest.importorskip("ray.serve", reason="the extra cluster is not installed")

RATE = 24000
CLIENTS = 4
BEGAN = time.monotonic()


def say(what: str) -> None:
    print(f"{time.monotonic() - BEGAN:6.1f} s  {what}", flush=True)


class Serving:
    """The command `serve run`, and the processes of its replicas."""

    def __init__(self, url: str, process: psutil.Process) -> None:
        self.url = url
        self.process = process

    def replicas(self) -> list[psutil.Process]:
        found = []
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.cmdline()[:1] == ["ray::ServeReplica:default:snac"]:
                    found.append(child)
        return found

    def answering(self, count: int) -> dict[str, str]:
        """Return the version that each replica serves, from so many requests."""
        versions = {}
        with httpx.Client(base_url=self.url, timeout=60) as http:
            for _ in range(count):
                answer = http.get("/v1/models")
                if answer.status_code == 200:
                    (serving,) = (
                        one["version"]
                        for one in answer.json()["models"]
                        if one["state"] == "serving"
                    )
                    versions[answer.headers["X-Replica"]] = serving
        return versions


@contextlib.contextmanager
def serving(folder: Path, store: ModelStore, port: int, **arguments: Any) -> Iterator[Serving]:
    config = folder / "serve.yaml"
    application = {"import_path": "service.cluster:app", "args": {"num_cpus": 0.1, **arguments}}
    config.write_text(yaml.dump({"http_options": {"port": port}, "applications": [application]}))
    variables = {
        "SNAC_MODEL_STORE": str(store.root),
        "SNAC_DEVICE": "cpu",
        "SNAC_RELOAD_INTERVAL": "1",
        "SNAC_PUBLISHED_HOST": "127.0.0.1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None, (folder / "serve.log").read_text()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{url}/health/ready", timeout=60).status_code == 200
            return False

        try:
            wait_for(ready)
            yield Serving(url, psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


class Load:
    """Clients that encode without a pause; what each is answered is compared."""

    def __init__(self, url: str, seconds: list[float], codec: Any) -> None:
        clips = [noise(round(RATE * length), seed) for seed, length in enumerate(seconds)]
        self._clips = list(zip(clips, codec.encode(clips), strict=True))
        self._url = url
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(CLIENTS)

    def __enter__(self) -> Load:
        self._all = [self._pool.submit(self._run, number) for number in range(CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for one in self._all:
            one.result()

    def _run(self, number: int) -> None:
        with SnacClient(self._url, retries=8) as client:
            # What is sent over the wire, and how often, is seen below the retries.
            client._http.event_hooks["response"].append(self._see)
            for turn in itertools.count(number):
                if self._stop.is_set():
                    return
                clip, expected = self._clips[turn % len(self._clips)]
                codes = client.encode(clip, RATE).codes
                same = all(map(np.array_equal, codes.levels, expected.levels))
                self.outcomes["right" if same else "wrong"] += 1

    def _see(self, answer: httpx.Response) -> None:
        self.outcomes[f"status {answer.status_code}"] += 1
        self.outcomes[f"replica {answer.headers.get('X-Replica', 'none: the proxy')}"] += 1


@pytest.fixture
def codec(store: ModelStore) -> Any:
    return snac_core.load(store.path(store.current() or ""), "cpu")


def test_a_killed_replica_loses_nothing_and_a_publish_reaches_all(
    tmp_path: Path,
    store: ModelStore,
    codec: Any,
    tiny_config: SnacConfig,
    variant: Callable[..., dict[str, Tensor]],
) -> None:
    with serving(tmp_path, store, 8311, min_replicas=2, max_replicas=2) as running:
        wait_for(lambda: len(running.answering(8)) == 2)
        say(f"two replicas serve: {running.answering(8)}")
        with Load(running.url, [0.3, 1.7, 4.0, 9.1, 20.0], codec) as load:
            wait_for(lambda: load.outcomes["right"] > 50)
            killed = running.replicas()[0]
            killed.kill()
            say(f"kill -9 of {killed.pid}, after {load.outcomes['right']} answers")
            at = load.outcomes["right"]
            wait_for(lambda: load.outcomes["right"] > at + 50)
            wait_for(lambda: len(running.replicas()) == 2)
            say(f"a new replica begins, after {load.outcomes['right']} answers")
            wait_for(lambda: len(running.answering(8)) == 2)
            say(f"two replicas serve again, after {load.outcomes['right']} answers")
            version = store.publish(tiny_config, variant(1, "decoder"))
            wait_for(lambda: {version} == set(running.answering(12).values()))
            say(f"published {version}: {running.answering(12)}")
        say(f"load: {dict(sorted(load.outcomes.items()))}")
        assert not load.outcomes["wrong"]
        newer = snac_core.load(store.path(version), "cpu")
        (codes,) = newer.encode([noise(RATE, 5)])
        tokens = to_layout(codes.levels, "flat", config=tiny_config)
        with SnacClient(running.url) as client:
            made = list(client.stream_decode([tokens[:70], tokens[70:]], "flat"))
        (whole,) = newer.decode([codes])
        streamed = np.concatenate(made)[: len(whole)]
        assert np.abs(streamed - whole).max() < 1e-3
        say(f"a stream of {len(streamed)} samples equals the whole")


def test_replicas_follow_the_load_up_and_down(
    tmp_path: Path, store: ModelStore, codec: Any
) -> None:
    arguments = {"max_replicas": 2, "queued_seconds": 5, "downscale_delay_s": 5}
    with serving(tmp_path, store, 8312, **arguments) as running:
        wait_for(lambda: len(running.answering(4)) == 1)
        say("one replica serves")
        with Load(running.url, [60.0, 45.0], codec) as load:
            wait_for(lambda: len(running.replicas()) == 2)
            say(f"under load a second one begins, after {load.outcomes['right']} answers")
            wait_for(lambda: len(running.answering(8)) == 2)
            say(f"both serve, after {load.outcomes['right']} answers")
            at = load.outcomes["right"]
            wait_for(lambda: load.outcomes["right"] > at + 20)
        say(f"load ends: {dict(sorted(load.outcomes.items()))}")
        wait_for(lambda: len(running.replicas()) == 1)
        say("one replica again")
        assert not load.outcomes["wrong"]
        assert len(running.answering(4)) == 1
