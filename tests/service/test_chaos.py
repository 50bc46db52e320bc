"""What breaks outside, and what must not break inside."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.models.manager import ModelManager
from service.observability.metrics import Metrics
from service.settings import Settings
from snac_core.audio import read
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.store import ModelStore
from tests.support.waiting import wait_for


@pytest.fixture
def publisher(
    store: ModelStore, tiny_weights: dict[str, Tensor], tmp_path: Path
) -> Callable[..., subprocess.Popen[str]]:
    """Start a process that publishes version after version; ``limit`` bounds its files' bytes."""
    import safetensors.torch

    weights = tmp_path / "weights.safetensors"
    tensors = {key: value.contiguous() for key, value in tiny_weights.items()}
    safetensors.torch.save_file(tensors, str(weights))

    def start(most: int, limit: int = 0) -> subprocess.Popen[str]:
        words = [str(store.root), str(weights), str(most), str(limit)]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.service.publisher", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_publisher_killed_in_the_middle_leaves_a_store_that_serves(
    serve: Any, store: ModelStore, publisher: Any, samples_of: Any, wav_of: Any
) -> None:
    chance = random.Random(0)
    wav = wav_of(samples_of(0.2))
    with serve(model_store=store.root, device="cpu", reload_interval=0.05) as running:
        for turn in range(2):
            process = publisher(10_000)
            assert process.stdout is not None
            # A publisher that says nothing ends its own wait.
            timer = threading.Timer(390, process.kill)
            timer.start()
            for _ in range(turn + 1):
                process.stdout.readline()
            timer.cancel()
            time.sleep(chance.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert running.http.post("/v1/encode", content=wav).status_code == 200
        current = store.current()
        assert current is not None
        for version in store.versions():
            store.verify(version)
        wait_for(
            lambda: running.http.get("/v1/models/current").json()["version"] == store.current()
        )
        models = running.http.get("/v1/models").json()["models"]
        assert {model["state"] for model in models} == {"available", "serving"}
        assert running.metric('snac_reload_total{outcome="failed"}') == 0


def test_a_full_disk_refuses_the_publisher_and_leaves_the_service(
    serve: Any, store: ModelStore, publisher: Any, samples_of: Any, wav_of: Any
) -> None:
    first, before = store.current(), store.versions()
    size = (store.path(first or "") / "model.safetensors").stat().st_size
    with serve(model_store=store.root, device="cpu", reload_interval=0.05) as running:
        process = publisher(1, limit=size // 2)
        said, _ = process.communicate(timeout=390)
        assert process.returncode == 3
        assert "cannot publish" in said
        assert (store.current(), store.versions()) == (first, before)
        assert not [path for path in store.root.rglob("*") if "tmp" in path.name]
        wav = wav_of(samples_of(0.2))
        assert running.http.post("/v1/encode", content=wav).status_code == 200
        whole = publisher(1)
        version = whole.communicate(timeout=390)[0].strip()
        wait_for(lambda: running.http.get("/v1/models/current").json()["version"] == version)


def test_an_engine_that_fails_at_random_harms_only_those_it_fails(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    chance = random.Random(1)
    clips = [samples_of(0.1 + 0.15 * (seed % 5), seed) for seed in range(24)]
    with serve(model=model_ref, device="cpu") as running:
        codec = running.service.models.codec
        expected = codec.encode(clips)
        run = codec.run
        errors: list[type[Exception]] = [torch.OutOfMemoryError, RuntimeError, KeyError]

        def failing(steps: Any) -> None:
            if chance.random() < 0.4:
                raise chance.choice(errors)("injected")
            run(steps)

        codec.run = failing
        with ThreadPoolExecutor(12) as pool:
            bodies = [wav_of(clip) for clip in clips]
            answers = list(
                pool.map(lambda body: running.http.post("/v1/encode", content=body), bodies)
            )
        codec.run = run
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) <= {200, 500, 503}
        assert statuses[200] > 0
        for answer, codes in zip(answers, expected, strict=True):
            if answer.status_code == 200:
                assert Codes.from_dict(answer.json()) == codes
            else:
                assert "injected" not in answer.text or answer.status_code == 503
        assert running.http.get("/health/ready").status_code == 200
        wait_for(lambda: running.service.engine.queued_seconds == 0.0)
        assert running.http.post("/v1/encode", content=bodies[0]).status_code == 200


def test_a_version_that_fails_is_left_alone_until_it_changes(
    store: ModelStore, tiny_config: SnacConfig, variant: Callable[..., dict[str, Tensor]]
) -> None:
    from service.errors import ReloadError

    metrics = Metrics()
    manager = ModelManager(Settings(model_store=store.root, device="cpu"), metrics)
    manager.load_first()
    bad = store.publish(tiny_config, variant(2))
    config = store.path(bad) / "config.json"
    whole = config.read_bytes()
    config.write_text(json.dumps({"nonsense": 1}))
    tries: list[str] = []
    load = manager._load

    def counted(store: ModelStore, version: str) -> Codec:
        tries.append(version)
        return load(store, version)

    manager._load = counted  # type: ignore[method-assign,assignment]
    for _ in range(5):
        with pytest.raises(ReloadError, match=bad):
            manager.check()
    assert tries == [bad]
    (state,) = [one for one in manager.describe() if one.version == bad]
    assert (state.state, bool(state.reason)) == ("failed", True)
    config.write_bytes(whole)
    assert manager.check().version == bad
    assert tries == [bad, bad]


def test_what_a_path_would_need_is_never_taken_from_a_request(
    serve: Any, model_ref: str, tmp_path: Path, samples_of: Any, wav_of: Any
) -> None:
    """File names climb, and nothing appears; the files that are read are opened before."""
    wav = wav_of(samples_of(0.2))
    inside = tmp_path / "inside"
    inside.mkdir()
    with serve(model=model_ref, device="cpu") as running:
        names = ["../../etc/passwd", str(inside / "x.wav"), "..\\x", "a\x00b", "/dev/stdin"]
        files = [("files", (name, wav)) for name in names]
        results = running.http.post("/v1/encode/batch", files=files).json()["results"]
        assert all("result" in item for item in results)
        for layout in ("../../etc/passwd", "/etc/passwd"):
            assert running.http.post(f"/v1/encode?layout={layout}", content=wav).status_code == 422
        body = {"codes": str(inside), "token_space": "../x"}
        assert running.http.post("/v1/decode", json=body).status_code in (409, 422)
    assert list(inside.iterdir()) == []


def test_answers_after_the_chaos_are_exact(running: Any, codec: Any, samples_of: Any) -> None:
    (codes,) = codec.encode([samples_of(0.4)])
    answer = running.http.post("/v1/decode", json=codes.to_dict())
    assert np.allclose(read(answer.content, 24000), codec.decode([codes])[0], atol=1e-4)
