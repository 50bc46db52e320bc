"""A tiny model, a store with it, and real servers on free ports."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import structlog
import torch
import uvicorn
from torch import Tensor

import snac_core
from service.app import create_app
from service.runtime.service import Service
from service.server.http_protocol import server_config
from service.settings import Settings
from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.model import SNAC
from snac_core.store import ModelStore
from snac_core.types import Samples

# What goes wrong is printed, without the pages that structlog would make of each traceback.
structlog.configure(
    processors=[
        structlog.stdlib.add_log_level,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
)

# The tiny model gains nothing from more threads, and tests rarely have the machine alone. So in
# the processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

RATE = 24000


@dataclasses.dataclass(frozen=True)
class Running:
    """A server, how to reach it, and what is inside it."""

    url: str
    service: Service
    http: httpx.Client

    def metric(self, line: str) -> float:
        """Return the value on the metrics line that starts with ``line``."""
        for found in self.http.get("/metrics").text.splitlines():
            name, _, value = found.rpartition(" ")
            if name == line:
                return float(value)
        raise AssertionError(f"no metric {line}")


Serve = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def tiny_config() -> SnacConfig:
    return SnacConfig(encoder_dim=8, decoder_dim=32)


@pytest.fixture(scope="session")
def tiny_weights(tiny_config: SnacConfig) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return SNAC(tiny_config).state_dict()


@pytest.fixture(scope="session")
def variant(tiny_weights: dict[str, Tensor]) -> Callable[..., dict[str, Tensor]]:
    """Make other weights: another decoder, or with ``part="encoder"`` another token space."""

    def make(seed: int, part: str = "decoder") -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            key: value * (1 + 0.1 * torch.rand(value.shape, generator=generator))
            if key.startswith(f"{part}.")
            else value
            for key, value in tiny_weights.items()
        }

    return make


@pytest.fixture
def store(tmp_path: Path, tiny_config: SnacConfig, tiny_weights: dict[str, Tensor]) -> ModelStore:
    store = ModelStore(tmp_path / "models")
    store.publish(tiny_config, tiny_weights)
    return store


@contextlib.contextmanager
def serving(*, loads: bool = True, **values: Any) -> Iterator[Running]:
    settings = Settings(**values)
    app = create_app(settings)
    listener = socket.socket()
    # What the kernel holds of an answer is little, so that it is seen who does not read.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(server_config(app, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + 390
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server had not started after 390 s"
            time.sleep(0.01)
        with httpx.Client(base_url=url, timeout=60) as http:
            lifecycle = app.state.service.lifecycle
            lifecycle.join()
            assert lifecycle.started is loads, lifecycle.failure
            yield Running(url, app.state.service, http)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Start a server with the settings given by name; it stops at the end of the block.

    ``loads=False`` expects that it cannot load its model.
    """
    return serving


@pytest.fixture(scope="session")
def model_ref(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_config: SnacConfig,
    tiny_weights: dict[str, Tensor],
) -> str:
    """Where the model that most tests serve is stored."""
    root = tmp_path_factory.mktemp("models")
    ModelStore(root).publish(tiny_config, tiny_weights)
    return str(root)


@pytest.fixture(scope="session")
def running(serve: Serve, model_ref: str) -> Iterator[Running]:
    """The server that tests share when they leave nothing behind in it."""
    with serve(model=model_ref, device="cpu") as running:
        yield running


@pytest.fixture(scope="session")
def codec(model_ref: str) -> Codec:
    """The model of ``running``, on its own."""
    return snac_core.load(model_ref, "cpu")


def make_samples(seconds: float, seed: int = 0) -> Samples:
    """Return a gliding tone with some noise."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.05, len(time_s))
    tone = 0.4 * np.sin(2 * np.pi * (150 + 40 * seed + 30 * np.sin(2 * time_s)) * time_s)
    return (tone + noise).astype(np.float32)


def make_wav(samples: Samples, rate: int = RATE, **how: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", "subtype": "FLOAT", **how})
    return file.getvalue()


@pytest.fixture(scope="session")
def samples_of() -> Callable[..., Samples]:
    """Make ``seconds`` of sound at 24 kHz."""
    return make_samples


@pytest.fixture(scope="session")
def wav_of() -> Callable[..., bytes]:
    """Write samples as a lossless WAV file."""
    return make_wav
