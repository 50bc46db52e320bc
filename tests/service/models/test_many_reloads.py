"""Fifty versions one after the other, in a process of its own: what stays behind would be seen."""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from websockets.sync.client import connect

import snac_core
from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.layouts import to_layout
from snac_core.model import SNAC
from snac_core.store import ModelStore
from tests.support.waiting import wait_for


@contextlib.contextmanager
def process_on(store: ModelStore) -> Iterator[tuple[str, psutil.Process]]:
    """Run the command on a store at which it looks when it is told to."""
    variables = {
        "SNAC_MODEL_STORE": str(store.root),
        "SNAC_DEVICE": "cpu",
        "SNAC_RELOAD_INTERVAL": "600",
        "SNAC_DRAIN_DELAY": "0",
        "SNAC_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "service.cli", "--port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stderr=log)
        urls: list[str] = []

        def serving() -> bool:
            log.seek(0)
            urls.extend(re.findall(r'"url": "([^"]+)"', log.read()))
            assert process.poll() is None, urls
            return bool(urls)

        try:
            wait_for(serving)
            yield urls[0], psutil.Process(process.pid)
            process.terminate()
            assert process.wait(300) == 0
        finally:
            process.kill()
            process.wait()


SMALL = SnacConfig(
    sampling_rate=2000,
    encoder_dim=32,
    encoder_rates=(4, 8),
    decoder_dim=128,
    decoder_rates=(8, 4),
    vq_strides=(2, 1),
)
"""Few layers and samples, so that it is loaded and warmed up soon, and a megabyte of weights."""


@pytest.mark.slow
def test_50_reloads_under_traffic_leave_memory_flat_and_a_stream_its_model(
    tmp_path: Path, wav_of: Any
) -> None:
    """A model that stayed behind each time would be seen forty times."""
    torch.manual_seed(0)
    weights = SNAC(SMALL).state_dict()
    store = ModelStore(tmp_path / "models")
    first = store.publish(SMALL, weights)
    codec = snac_core.load(store.path(first), "cpu")
    turns = 50
    random = np.random.default_rng(0)
    levels = tuple(random.integers(0, 4096, turns * 10 * count, np.int32) for count in (1, 2))
    tokens = np.array(to_layout(levels, "flat", config=SMALL), "<i4").reshape(turns, -1)
    wav = wav_of(random.uniform(-0.5, 0.5, 600), SMALL.sampling_rate)
    resident = []

    with process_on(store) as (url, process), ThreadPoolExecutor(1) as pool:
        path = f"{url.replace('http', 'ws')}/v1/stream/decode?layout=flat&format=f32le"
        with (
            connect(path, ping_interval=None, max_queue=None) as stream,
            httpx.Client(base_url=url, timeout=300) as http,
        ):

            def round_trip() -> set[str]:
                encoded = http.post("/v1/encode", content=wav)
                decoded = http.post("/v1/decode", content=encoded.content)
                assert (encoded.status_code, decoded.status_code) == (200, 200)
                return {answer.headers["X-Model-Version"] for answer in (encoded, decoded)}

            before = first
            for turn in range(turns):
                changed = {
                    key: value * (1 + 0.001 * turn) if key.startswith("decoder.") else value
                    for key, value in weights.items()
                }
                version = store.publish(SMALL, changed)
                reload = pool.submit(http.post, "/v1/models/reload")
                stream.send(tokens[turn].tobytes())
                assert round_trip() <= {before, version}
                assert reload.result().json()["version"] == version
                assert round_trip() == {version}
                resident.append(process.memory_info().rss)
                before = version
            stream.send('{"type": "end"}')
            ready, *parts, done = stream
            assert stream.close_code == 1000

    assert {json.loads(said)["model"]["version"] for said in (ready, done)} == {first}
    (whole,) = codec.decode([Codes(levels, turns * 10 * 64, SMALL.sampling_rate)])
    made = np.frombuffer(b"".join(part for part in parts if isinstance(part, bytes)), "<f4")
    assert np.abs(made - whole).max() <= 1e-5
    assert statistics.median(resident[-5:]) < 1.03 * statistics.median(resident[5:10])
