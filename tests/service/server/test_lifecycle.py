"""From the open port to the last answer: what the probes say on the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import NotReadyError
from service.models import manager
from service.models.warmup import warm_up
from service.runtime.lifecycle import Lifecycle
from service.settings import Settings
from snac_core.codec import Codec

SLOW_STORE = Path(__file__).with_name("serve_slow_store.py")
PROBES = ("/health/live", "/health/startup", "/health/ready")


def test_loading_is_told_step_by_step_and_happens_once() -> None:
    lifecycle, gate, runs = Lifecycle(), threading.Event(), []

    def load() -> None:
        runs.append(1)
        lifecycle.step = "unpacking"
        assert gate.wait(300)

    with pytest.raises(NotReadyError, match="not started"):
        lifecycle.check_started()
    lifecycle.start(load)
    lifecycle.start(load)
    deadline = time.monotonic() + 300
    while lifecycle.step != "unpacking":
        assert time.monotonic() < deadline, "loading did not begin within 300 s"
    with pytest.raises(NotReadyError, match=r"starting: unpacking \(\d+ s so far\)") as caught:
        lifecycle.check_ready()
    assert caught.value.headers == {"Retry-After": "1"}
    gate.set()
    lifecycle.join()
    lifecycle.check_ready()
    assert runs == [1]
    lifecycle.stopping = True
    lifecycle.check_started()
    with pytest.raises(NotReadyError, match="stopping"):
        lifecycle.check_ready()


def test_warming_up_takes_every_class_of_sizes_both_ways_and_streams(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    ran: list[tuple[str, int]] = []
    run = codec.run

    def watched(steps: Any) -> None:
        ran.extend((step.kind, len(step.job.windows)) for step in steps)
        run(steps)

    monkeypatch.setattr(codec, "run", watched)
    warm_up(codec, told.append)
    for kind in ("encode", "decode"):
        windows = {count for one, count in ran if one == kind}
        assert min(windows) == 1 < max(windows)
    assert {kind for kind, _ in ran} == {"encode", "decode", "stream-encode", "stream-decode"}
    for each, end in zip(told[-3:], ("3 of 3", "quality measures", "streams"), strict=True):
        assert each.endswith(end)


def test_it_is_not_ready_before_it_is_warm(model_ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, gate = threading.Event(), threading.Event()

    def held(codec: Codec, tell: Callable[[str], None]) -> None:
        def told(step: str) -> None:
            tell(step)
            entered.set()
            assert gate.wait(300)

        warm_up(codec, told)

    monkeypatch.setattr(manager, "warm_up", held)
    app = create_app(Settings(model=model_ref, device="cpu"))
    with TestClient(app) as client:
        try:
            assert entered.wait(300)
            for probe, status in zip(PROBES, (200, 503, 503), strict=True):
                assert client.get(probe).status_code == status
            assert "warming up" in client.get("/health/startup").json()["detail"]
            assert client.post("/v1/encode", content=b"x").status_code == 503
        finally:
            gate.set()
        app.state.service.lifecycle.join()
        assert [client.get(probe).status_code for probe in PROBES] == [200, 200, 200]


def test_the_port_answers_while_a_model_is_loaded(tmp_path: Path, model_ref: str) -> None:
    may_answer = tmp_path / "may-answer"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(SLOW_STORE), "--port", str(port)],
        env={
            **os.environ,
            "SNAC_MODEL_STORE": model_ref,
            "STORE_ANSWERS": str(may_answer),
            "SNAC_DEVICE": "cpu",
            "SNAC_DRAIN_DELAY": "0",
            "SNAC_RELOAD_INTERVAL": "600",
        },
        stderr=subprocess.PIPE,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
            deadline = time.monotonic() + 390
            while not answers(http):
                assert process.poll() is None
                assert time.monotonic() < deadline, "nobody listened within 390 s"
                time.sleep(0.05)
            live, startup, ready = (http.get(probe) for probe in PROBES)
            assert live.status_code == 200
            assert (startup.status_code, ready.status_code) == (503, 503)
            assert startup.json()["detail"].startswith("the service is starting")
            assert startup.headers["Retry-After"] == "1"
            refused = http.post("/v1/encode", content=b"x")
            assert refused.status_code == 503
            assert refused.json()["type"] == "urn:snac:problem:not-ready"
            may_answer.touch()
            deadline = time.monotonic() + 390
            while http.get("/health/startup").status_code != 200:
                assert process.poll() is None
                assert time.monotonic() < deadline, "it had not started after 390 s"
            assert [http.get(probe).status_code for probe in PROBES] == [200, 200, 200]
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    finally:
        process.kill()
        process.communicate()


def answers(http: httpx.Client) -> bool:
    try:
        http.get("/health/live")
    except httpx.ConnectError:
        return False
    return True


def test_an_app_without_a_model_says_why_and_asks_to_be_restarted(tmp_path: Path) -> None:
    """As another server would run it, which does not end by itself as the command does."""
    app = create_app(Settings(model=str(tmp_path / "nothing"), device="cpu"))
    with TestClient(app) as client:
        app.state.service.lifecycle.join()
        for probe in PROBES:
            answer = client.get(probe)
            assert answer.status_code == 503
            assert "nothing" in answer.json()["detail"]
