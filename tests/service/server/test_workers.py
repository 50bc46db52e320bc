"""Several processes behind one port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.errors import ReloadError
from service.runtime import peers
from service.runtime.lifecycle import ENGINE_DEAD, REFUSED
from service.runtime.peers import Worker
from service.server.supervisor import devices
from service.settings import Settings
from snac_core.config import SnacConfig
from snac_core.errors import ConfigError
from snac_core.store import ModelStore
from tests.support.waiting import wait_for

ARGUMENTS = ["--port", "0", "--devices", "cpu,cpu"]
COMMAND = [sys.executable, "-m", "service.cli", *ARGUMENTS]

FRAGILE = [sys.executable, str(Path(__file__).with_name("serve_fragile.py")), *ARGUMENTS]
"""The command, on a device that a clip of 777 samples breaks."""


def test_devices_are_listed_counted_or_one() -> None:
    assert devices(Settings()) == [None]
    assert devices(Settings(device="cpu")) == ["cpu"]
    assert devices(Settings(devices="cuda:0, cuda:1")) == ["cuda:0", "cuda:1"]
    for wrong in ("0", "all" if devices_are_none() else "99"):
        with pytest.raises(ConfigError, match="GPUs"):
            devices(Settings(devices=wrong))
    with pytest.raises(ConfigError, match="names no device"):
        devices(Settings(devices=" , "))


def devices_are_none() -> bool:
    import torch

    return torch.cuda.device_count() == 0


@contextlib.contextmanager
def workers(
    store: Path, command: list[str] = COMMAND, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str, list[dict[str, Any]]]]:
    """Start two workers on a store, and wait until both serve."""
    process = subprocess.Popen(
        command,
        env={
            **os.environ,
            "SNAC_MODEL_STORE": str(store),
            "SNAC_RELOAD_INTERVAL": "600",
            "SNAC_DRAIN_DELAY": "0",
            "OMP_NUM_THREADS": "1",
            **variables,
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    entries: list[dict[str, Any]] = []
    assert process.stderr is not None
    lines = process.stderr

    def follow() -> None:
        for line in lines:
            # A library or the interpreter may say something of its own.
            with contextlib.suppress(json.JSONDecodeError):
                entries.append(json.loads(line))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()

    def serving() -> list[dict[str, Any]]:
        return [entry for entry in entries if entry["event"] == "serving"]

    try:
        wait_for(lambda: len(serving()) == 2 or process.poll() is not None)
        assert process.poll() is None, entries
        yield process, serving()[0]["url"], entries
    finally:
        process.terminate()
        try:
            process.wait(400)
        finally:
            process.kill()
        thread.join(400)
        lines.close()


def test_two_workers_are_one_service(
    store: ModelStore,
    tiny_config: SnacConfig,
    variant: Any,
    samples_of: Any,
    wav_of: Any,
) -> None:
    wav = wav_of(samples_of(0.3))

    def posts(count: int) -> list[httpx.Response]:
        # Each on a connection of its own: the kernel spreads connections.
        return [httpx.post(f"{url}/v1/encode", content=wav, timeout=60) for _ in range(count)]

    def served_by_worker() -> dict[str, float]:
        found = {}
        for line in httpx.get(f"{url}/metrics", timeout=60).text.splitlines():
            if line.startswith('snac_requests_total{outcome="ok",route="/v1/encode"'):
                name, _, value = line.rpartition(" ")
                found[name.partition('worker="')[2][0]] = float(value)
        return found

    with workers(store.root) as (process, url, entries):
        assert {entry["url"] for entry in entries if entry["event"] == "serving"} == {url}
        sent = 0
        while len(served_by_worker()) < 2:
            answers = posts(4)
            sent += 4
            assert len({answer.text for answer in answers}) == 1
            assert sent < 400
        assert sum(served_by_worker().values()) == sent

        version = store.publish(tiny_config, variant(1))
        assert httpx.post(f"{url}/v1/models/reload", timeout=60).json()["version"] == version
        assert {answer.headers["X-Model-Version"] for answer in posts(12)} == {version}
        assert httpx.post(f"{url}/v1/models/rollback", timeout=60).is_success
        assert {answer.headers["X-Model-Version"] for answer in posts(12)} == {store.current()}

        version = store.publish(tiny_config, variant(2))
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: {one.headers["X-Model-Version"] for one in posts(6)} == {version})

        supervisor = [
            child
            for child in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
        assert len(supervisor) == 2
        assert {worker.environ()["OMP_WAIT_POLICY"] for worker in supervisor} == {"PASSIVE"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(400) == 0


def ended(entries: list[dict[str, Any]]) -> list[int]:
    """Return the exit codes of the workers that ended before they were told to."""
    return [entry["code"] for entry in list(entries) if entry["event"].startswith("a worker ended")]


def test_a_worker_whose_engine_dies_is_replaced_as_soon_as_another_can_start(
    store: ModelStore, samples_of: Any, wav_of: Any
) -> None:
    wav, poison = wav_of(samples_of(0.2)), wav_of(samples_of(777 / 24000))
    variables = {
        "SNAC_MODEL": str(store.root),
        "SNAC_MODEL_STORE": "",
        "SNAC_DRAIN_DELAY": "0.5",
    }
    apart = httpx.Limits(max_keepalive_connections=0)
    with (
        workers(store.root, FRAGILE, **variables) as (process, url, entries),
        httpx.Client(timeout=300, limits=apart) as http,
    ):

        def post(body: bytes) -> httpx.Response:
            return http.post(f"{url}/v1/encode", content=body)

        def all_answer() -> bool:
            return {post(wav).status_code for _ in range(6)} == {200}

        away = store.root.with_name("away")
        store.root.rename(away)
        broken = post(poison)
        assert (broken.status_code, broken.json()["type"][-11:]) == (503, "engine-dead")
        wait_for(lambda: ended(entries) == [ENGINE_DEAD])
        # It has not waited for anybody to notice that it is not ready.
        assert [one["drain_delay"] for one in entries if one["event"] == "stopping"] == [0.0]
        assert all_answer()
        # The one in its place finds no model, and takes no call before it has one.
        wait_for(lambda: not all_answer() or len(ended(entries)) > 1)
        assert all_answer()
        assert ended(entries)[1] in REFUSED
        away.rename(store.root)
        wait_for(lambda: sum(entry["event"] == "serving" for entry in list(entries)) == 3)
        assert all_answer()
        process.send_signal(signal.SIGTERM)
        assert process.wait(400) == 0


def test_a_stopped_worker_is_replaced_and_a_second_start_is_refused(
    store: ModelStore, samples_of: Any, wav_of: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [*COMMAND[:-4], "--port", port, "--devices", "cpu,cpu"]
    variables = {"SNAC_HEARTBEAT_TIMEOUT": "15"}
    with workers(store.root, command, **variables) as (process, url, entries):
        second = subprocess.run(
            [*command, "--model", str(store.root)],
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert second.returncode == 1
        assert second.stderr == (
            f"snac-service: 127.0.0.1:{port} cannot be listened on: Address already in use\n"
        )
        stopped = next(
            child
            for child in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        )
        stopped.send_signal(signal.SIGSTOP)
        wait_for(lambda: sum(entry["event"] == "serving" for entry in list(entries)) == 3)
        assert not psutil.pid_exists(stopped.pid)
        assert ended(entries) == [-signal.SIGKILL]
        wav = wav_of(samples_of(0.2))
        assert httpx.post(f"{url}/v1/encode", content=wav, timeout=60).is_success


def test_a_signal_between_two_lives_of_all_workers_ends_the_service(
    store: ModelStore,
) -> None:
    """The next life would begin in an hour."""
    with workers(store.root, FRAGILE, FIRST_PAUSE="3600") as (process, _, entries):
        for worker in psutil.Process(process.pid).children():
            if "spawn_main" in " ".join(worker.cmdline()):
                worker.kill()
        wait_for(lambda: ended(entries) == [-signal.SIGKILL] * 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(100) == 0


def test_a_worker_that_hangs_is_named_and_one_that_is_away_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RELOAD_SECONDS", "METRICS_SECONDS"):
        monkeypatch.setattr(peers, name, 0.2)
    worker = Worker(0, 3, tmp_path)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "1.sock"))
        hung.listen()
        with pytest.raises(ReloadError, match=r"\{1: 'no answer within 0.2 s'\}"):
            asyncio.run(worker.reload_others("", None))
        assert asyncio.run(worker.others_metrics()) == {}
    (tmp_path / "1.sock").unlink()
    asyncio.run(worker.reload_others("", None))


def test_workers_that_cannot_start_end_the_service(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--model", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert ended.returncode == 1
    assert "snac-service: no model" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_signal_while_workers_start_ends_them_all(store: ModelStore) -> None:
    with subprocess.Popen([*COMMAND, "--model", str(store.root)]) as process:
        wait_for(lambda: bool(psutil.Process(process.pid).children()))
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(400) == 0
        finally:
            process.kill()


def test_workers_do_not_outlive_the_process_that_started_them(store: ModelStore) -> None:
    with workers(store.root) as (process, _, _):
        supervisor = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(supervisor, timeout=400)
        assert not alive
