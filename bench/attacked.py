"""What attacks in `attacks.py` share: a server to attack, a probe beside it, and what they note."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch

from snac_core.config import SnacConfig
from snac_core.model import SNAC
from snac_core.store import ModelStore

MIB = 2**20
PROBE_TIMEOUT = 60.0
TINY = SnacConfig(encoder_dim=8, decoder_dim=32)


def publish_tiny(root: Path, count: int = 1) -> ModelStore:
    """Publish ``count`` versions of a model of random weights."""
    store = ModelStore(root)
    for seed in range(count):
        torch.manual_seed(0)
        weights = SNAC(TINY).state_dict()
        key = next(key for key in weights if key.startswith("decoder."))
        store.publish(TINY, {**weights, key: weights[key] + 1e-4 * seed})
    return store


@dataclasses.dataclass
class Target:
    """A running service."""

    host: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    def connect(self, timeout: float = PROBE_TIMEOUT) -> socket.socket:
        """Open a connection."""
        return socket.create_connection((self.host, self.port), timeout)

    def client(self, timeout: float = 120.0) -> httpx.Client:
        """Return an HTTP client."""
        return httpx.Client(base_url=self.url, timeout=timeout)

    def send(self, head: str, body: bytes = b"", timeout: float = PROBE_TIMEOUT) -> bytes:
        """Send one request as written and return the first piece of the answer."""
        with self.connect(timeout) as connection:
            connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
            try:
                return connection.recv(65536)
            except (TimeoutError, ConnectionResetError):
                return b""

    def post(self, path: str, body: bytes, media: str, *, timeout: float = 120.0) -> str:
        """Post ``body`` and return its status and the seconds it took."""
        started = time.perf_counter()
        try:
            with self.client(timeout) as http:
                status: object = http.post(
                    path, content=body, headers={"Content-Type": media}
                ).status_code
        except httpx.HTTPError as error:
            status = type(error).__name__
        return f"{status} after {time.perf_counter() - started:.1f} s"

    def metric(self, line: str) -> float:
        """Return a metric's value, 0 if it is not there."""
        with self.client() as http:
            text = http.get("/metrics").text
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self, timeout: float = 30.0) -> int | str:
        """Send SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return f"still running after {timeout:g} s"


@contextlib.contextmanager
def service(wait: bool = True, **variables: str) -> Iterator[Target]:
    """Run `snac-service` with a tiny model and ``variables`` as its ``SNAC_*`` settings."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        if "MODEL" not in variables:
            variables["MODEL"] = str(publish_tiny(Path(folder) / "store").root)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(variables.pop("PORT", free.getsockname()[1]))
        plain = ("PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "HF_ENDPOINT")
        named = {k if k in plain else f"SNAC_{k}": v for k, v in variables.items()}
        environment = {**os.environ, "SNAC_LOG_LEVEL": "warning", "SNAC_DEVICE": "cpu", **named}
        command = [sys.executable, "-m", "service.cli", "--port", str(port)]
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        target = Target("127.0.0.1", port, process, log)
        try:
            if wait:
                wait_ready(target)
            yield target
        finally:
            process.kill()
            process.wait()


def wait_ready(target: Target, timeout: float = 120.0) -> bool:
    """Wait until the service is ready; False if it has ended or takes longer."""
    deadline = time.monotonic() + timeout
    while target.process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{target.url}/health/ready", timeout=5).is_success:
                return True
        time.sleep(0.1)
    return False


@dataclasses.dataclass
class Seen:
    """What a probe and the kernel saw during an attack."""

    p99: float = 0.0
    longest: float = 0.0
    failures: int = 0
    grown_mib: float = 0.0


@contextlib.contextmanager
def probed(target: Target) -> Iterator[Seen]:
    """Ask ``/health/live`` on new connections from another process while the block runs."""
    context = multiprocessing.get_context("fork")
    ended, results = context.Event(), context.Queue()
    process = context.Process(target=_probe, args=(target.host, target.port, ended, results))
    peak = _reset_peak(target.process.pid)
    process.start()
    seen = Seen()
    try:
        yield seen
    finally:
        ended.set()
        with contextlib.suppress(queue.Empty):
            taken, seen.failures = results.get(timeout=2 * PROBE_TIMEOUT)
            seen.p99, seen.longest = float(np.percentile(taken, 99)), max(taken)
        process.join(5)
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            seen.grown_mib = (_peak(target.process.pid) - peak) / MIB


def _probe(host: str, port: int, ended: Event, results: multiprocessing.Queue[object]) -> None:
    taken: list[float] = []
    failures = 0
    while not ended.is_set() or not taken:
        started = time.perf_counter()
        try:
            with socket.create_connection((host, port), PROBE_TIMEOUT) as connection:
                connection.settimeout(PROBE_TIMEOUT)
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                failures += not connection.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            failures += 1
        taken.append(time.perf_counter() - started)
        ended.wait(0.02)
    results.put((taken, failures))


def _reset_peak(pid: int) -> int:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return int(psutil.Process(pid).memory_info().rss)


def _peak(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 1024 * int(found[1]) if found else 0
