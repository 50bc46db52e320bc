"""The service over HTTP against a plain FastAPI handler around the published package.

    python bench/serving.py [--clients 16] [--requests 32] [--rounds 3]

Both run in processes of their own, with the same weights. Clients post clips of 1-10 s to the plain
handler, once, as it takes so long, and to ours, in turns with the engine alone. Then more and more
clients post to ours. Writes
``bench/results/serving.json``, ``serving.md`` and ``serving.png``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from measuring import CONFIG, RATE, RESULTS, Row, clips, codec, save, upstream

from snac_core.audio import encode_bytes
from snac_core.types import Samples

PLAIN = "plain FastAPI handler"
COMMANDS = {
    "ours": ("-m", "service.cli"),
    PLAIN: (str(Path(__file__).with_name("plain_handler.py")),),
}


@contextlib.contextmanager
def server(name: str, model: Path, **environment: str) -> Iterator[httpx.Client]:
    """Run one of the two, with more in its environment, and wait until it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, *COMMANDS[name], "--port", str(port), "--model", str(model)]
    environment = {**os.environ, "SNAC_LOG_LEVEL": "error", **environment}
    with (
        subprocess.Popen(command, env=environment) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as http,
    ):
        try:
            while True:
                if process.poll() is not None:
                    raise SystemExit(f"{name} ended with {process.returncode}")
                with contextlib.suppress(httpx.TransportError):
                    if http.get("/health/ready").is_success:
                        break
                time.sleep(0.05)
            yield http
        finally:
            process.terminate()


def starts(model: Path) -> list[str]:
    """Return how long the service takes from its start until it is ready."""
    said = []
    with tempfile.TemporaryDirectory() as cache:
        for what, path in (
            ("without compiler or kernels", ""),
            ("cold, building the kernels", os.environ["PATH"]),
            ("warm", os.environ["PATH"]),
        ):
            started = time.perf_counter()
            with server("ours", model, XDG_CACHE_HOME=cache, PATH=path):
                said.append(f"ready, {what}: {time.perf_counter() - started:.1f} s of wall time")
    return said


class Load:
    """Clients that each post the next clip once their last is answered."""

    def __init__(self, waves: list[Samples], clients: int) -> None:
        self._bodies = [encode_bytes(wave, RATE) for wave in waves]
        self._clients = clients
        self.audio = sum(len(wave) for wave in waves) / RATE

    def __call__(self, http: httpx.Client) -> tuple[float, list[float], list[Any]]:
        """Return seconds in all, of each request, and the codes."""

        def post(body: bytes) -> tuple[float, Any]:
            started = time.perf_counter()
            answer = http.post("/v1/encode", content=body, headers={"Content-Type": "audio/wav"})
            answer.raise_for_status()
            return time.perf_counter() - started, answer.json()["codes"]

        started = time.perf_counter()
        with ThreadPoolExecutor(self._clients) as pool:
            done = list(pool.map(post, self._bodies))
        elapsed = time.perf_counter() - started
        return elapsed, [seconds for seconds, _ in done], [codes for _, codes in done]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="of ours and of the engine")
    options = parser.parse_args()
    model, waves = upstream(), clips(options.requests, 1.0, 10.0)
    load, few = Load(waves, options.clients), Load(waves[:4], 4)
    whole: dict[str, list[float]] = {"ours": [], PLAIN: [], "engine": []}
    each: dict[str, list[float]] = {"ours": [], PLAIN: []}
    answers: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG.to_dict()))
        torch.save(model.state_dict(), Path(folder) / "pytorch_model.bin")
        running = {name: servers.enter_context(server(name, Path(folder))) for name in COMMANDS}
        alone = codec(model, "on")
        for http in running.values():
            few(http)
        alone.encode(waves[:4])
        for name in (PLAIN, *["ours"] * options.rounds):
            elapsed, seconds, answers[name] = load(running[name])
            whole[name].append(elapsed)
            each[name] += seconds
            if name == PLAIN:
                continue
            started = time.perf_counter()
            alone.encode(waves)
            whole["engine"].append(time.perf_counter() - started)
        grown = growth(running["ours"], waves[:16])
        servers.pop_all().close()
        notes = starts(Path(folder))
    rows = _rows(options.clients, load.audio, whole, each)
    same = answers["ours"] == answers[PLAIN]
    notes.append(
        f"ours and the engine {options.rounds} times in turns, the plain handler once, before them"
    )
    notes.append(f"codes over HTTP: {'the same as' if same else 'NOT those'} upstream's")
    save("serving", rows, notes, {"seconds": whole, "latencies": each, "growth": grown})
    plot(grown)


def growth(http: httpx.Client, waves: list[Samples]) -> list[tuple[int, float, float]]:
    """Return, for numbers of clients, the throughput in x real time and the median wait in s."""
    found = []
    for clients in (1, 4, 16):
        load = Load(waves, clients)
        elapsed, seconds, _ = load(http)
        found.append((clients, load.audio / elapsed, statistics.median(seconds)))
    return found


def plot(grown: list[tuple[int, float, float]]) -> None:
    """Write ``results/serving.png``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    clients, *curves = zip(*grown, strict=True)
    labels = ("throughput, x real time", "median wait, s")
    for axes, label, values in zip(figure.subplots(1, 2), labels, curves, strict=True):
        axes.plot(clients, values, "o-")
        axes.set(xscale="log", xlabel="clients", ylabel=label, ylim=(0, None))
    figure.savefig(RESULTS / "serving.png", dpi=110)


def _rows(
    clients: int, audio: float, whole: dict[str, list[float]], each: dict[str, list[float]]
) -> list[Row]:
    def rate(name: str) -> float:
        return audio / statistics.median(whole[name])

    def ratio(peer: str) -> tuple[float, float, float]:
        peers = whole[peer] * (len(whole["ours"]) if peer == PLAIN else 1)
        found = [a / b for a, b in zip(peers, whole["ours"], strict=True)]
        return min(found), statistics.median(found), max(found)

    load, unit = f"{clients} clients, clips of 1-10 s", "x real time"
    rows = [
        Row(f"{load}: throughput", PLAIN, rate("ours"), rate(PLAIN), unit, ratio(PLAIN), 4.0),
        Row(
            f"{load}: throughput",
            "engine alone",
            rate("ours"),
            rate("engine"),
            unit,
            ratio("engine"),
            0.9,
        ),
    ]
    for percent, bar in ((50, None), (99, 1.0)):
        ours, theirs = (float(np.percentile(each[name], percent)) for name in ("ours", PLAIN))
        value = theirs / ours
        rows.append(
            Row(f"{load}: p{percent}", PLAIN, ours, theirs, "s", (value, value, value), bar)
        )
    return rows


if __name__ == "__main__":
    main()
