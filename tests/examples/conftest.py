"""A service as users start it, which the examples and the README's commands talk to."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import uvicorn
from fastapi import FastAPI

ROOT = Path(__file__).parents[2]
START_SECONDS = 300


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def service_port() -> Iterator[int]:
    """The port of `snac-service` with the starter model; any page may call it."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("snac-service")), "--port", str(port)]
    environment = {**os.environ, "SNAC_LOG_LEVEL": "warning", "SNAC_CORS_ORIGINS": "*"}
    process = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, f"the service ended with {process.returncode}"
            assert time.monotonic() < deadline, "the service did not start"
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health/ready").is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def serving() -> Iterator[Callable[[FastAPI], str]]:
    """Run an application in this process until the test ends, and return its URL."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(app: FastAPI) -> str:
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in reversed(running):
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of two seconds."""
    path = tmp_path_factory.mktemp("recordings") / "voice.wav"
    seconds = np.arange(48000) / 24000
    pitch = 120 + 30 * np.sin(2 * np.pi * 2 * seconds)
    tone = 0.3 * np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / 24000))
    soundfile.write(path, tone * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * seconds)), 24000)
    return path
