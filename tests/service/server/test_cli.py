"""The command, as a process: what it says, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from service.cli import main
from service.settings import Settings

COMMAND = [sys.executable, "-m", "service.cli"]


@contextlib.contextmanager
def started(model: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start the command and wait for the line that says what it serves."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", "--model", model],
        env={**os.environ, "SNAC_DEVICE": "cpu", "OMP_NUM_THREADS": "1", **variables},
        stderr=subprocess.PIPE,
        text=True,
    )
    # Without it a process that says nothing would be read from for ever.
    timer = threading.Timer(390, process.kill)
    timer.start()
    try:
        assert process.stderr is not None
        for line in process.stderr:
            entry = json.loads(line)
            if entry["event"] == "serving":
                timer.cancel()
                yield process, entry
                break
        else:
            raise AssertionError(f"it ended with {process.wait()} and never served")
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def test_on_a_terminal_commands_are_lines_that_can_be_pasted() -> None:
    program = [sys.executable, "-m", "tests.service.server.log_on_console"]
    done = subprocess.run(program, stderr=subprocess.PIPE, text=True)
    first, command = done.stderr.splitlines()
    assert "serving" in first
    assert "http://a" in first
    assert command == "curl -d '[1]'"


def test_the_log_names_the_model_and_curl_lines_that_work(model_ref: str, tmp_path: Path) -> None:
    with started(model_ref, SNAC_API_KEY="an API key") as (process, entry):
        assert entry["device"] == "cpu"
        assert entry["precision"]
        answers = [
            subprocess.run(
                ["bash", "-c", entry[name]],
                cwd=tmp_path,
                env={**os.environ, "SNAC_API_KEY": "an API key"},
                check=True,
                capture_output=True,
            ).stdout
            for name in ("encode", "decode")
        ]
        model = json.loads(answers[0])["model"]
        assert soundfile.info(tmp_path / "tokens.wav").frames == 2048
        assert model == {"version": entry["version"], "token_space": entry["token_space"]}
        assert httpx.post(entry["url"] + "/v1/encode", headers={"X-Request-Id": "r1"}).is_error
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        entries = [json.loads(line) for line in process.stderr]
    assert any(one.get("request_id") == "r1" and one["status"] == 401 for one in entries)


def test_sigterm_turns_not_ready_drains_and_exits_cleanly(
    model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    with started(model_ref, SNAC_DRAIN_DELAY="3", SNAC_DRAIN_TIMEOUT="300") as (process, entry):
        with (
            httpx.Client(base_url=entry["url"], timeout=60) as http,
            ThreadPoolExecutor(1) as pool,
        ):
            assert http.get("/health/ready").status_code == 200
            long = pool.submit(
                httpx.post,
                entry["url"] + "/v1/encode",
                content=wav_of(samples_of(120.0)),
                timeout=300,
            )
            deadline = time.monotonic() + 300
            while not long.done() and "snac_queue_audio_seconds 0.0" in http.get("/metrics").text:
                assert time.monotonic() < deadline, "nothing was queued within 300 s"
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 300
            while http.get("/health/ready").status_code == 200:
                assert time.monotonic() < deadline, "it was still ready after 300 s"
            assert http.get("/health/live").status_code == 200
            assert http.get("/health/ready").json()["detail"] == "the service is stopping"
            assert long.result().status_code == 200
        assert process.wait(30) == 0


def test_a_list_of_one_device_is_where_the_only_process_serves(model_ref: str) -> None:
    with started(model_ref, SNAC_DEVICE="meta", SNAC_DEVICES="cpu") as (_, entry):
        assert entry["device"] == "cpu"


def heaps_of_threads(pid: int) -> list[str]:
    """Return the heaps that glibc has reserved for threads: 64 MiB each, of which part is used."""
    size, found, last = 64 * 2**20, [], (0, 0, "")
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, access, *_ = line.split()
        start, end = (int(bound, 16) for bound in where.split("-"))
        whole = last[0] % size == 0 and (start, end) == (last[1], last[0] + size)
        if whole and (last[2], access) == ("rw-p", "---p"):
            found.append(line)
        last = start, end, access
    return found


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other heaps")
def test_threads_have_no_heaps_of_their_own(model_ref: str, samples_of: Any, wav_of: Any) -> None:
    """What one thread frees is there for the others, so that memory does not add up."""
    wav = wav_of(samples_of(1.0))
    with (
        started(model_ref) as (process, entry),
        httpx.Client(base_url=entry["url"], timeout=60) as http,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = [pool.submit(http.post, "/v1/encode", content=wav) for _ in range(32)]
        assert all(one.result().is_success for one in asked)
        assert heaps_of_threads(process.pid) == []


@pytest.mark.skipif(platform.system() != "Linux", reason="the mapped files are read from /proc")
def test_what_only_reconstruct_needs_is_loaded_in_the_warm_up(model_ref: str) -> None:
    with started(model_ref) as (process, _):
        assert "/scipy/" in Path(f"/proc/{process.pid}/maps").read_text()


def test_a_model_that_is_not_there_is_told_without_a_trace(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--model", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        check=False,
        timeout=390,
    )
    assert ended.returncode == 1
    assert "snac-service: no model" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_setting_is_an_option_that_help_shows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in said for name in Settings.model_fields)


def test_options_come_before_variables(model_ref: str) -> None:
    options = ["--api-keys", "one of eight,two of eight", "--max-files=3", "--host", "0.0.0.0"]
    ended = subprocess.run(
        [
            *COMMAND,
            "--model",
            "nothing/here",
            *options,
            "--host",
            "0.0.0.0",
            "--no-allow-anonymous",
        ],
        env={**os.environ, "SNAC_MAX_FILES": "no number", "SNAC_MODEL": model_ref},
        capture_output=True,
        text=True,
        check=False,
        timeout=390,
    )
    assert (ended.returncode, "nothing/here" in ended.stderr) == (1, True)


def test_a_variable_that_is_no_setting_is_named_with_the_nearest(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--model", str(tmp_path / "nothing")],
        env={**os.environ, "SNAC_MAX_SECOND": "5", "SNAC_TRAINER_LAUNCHER": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=390,
    )
    entry = json.loads(ended.stderr.splitlines()[0])
    named = (entry["level"], entry["variable"], entry["did_you_mean"])
    assert named == ("warning", "SNAC_MAX_SECOND", "SNAC_MAX_SECONDS")
    assert "LAUNCHER" not in ended.stderr


def test_a_setting_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SNAC_MAX_SECONDS", "-1")
    assert main(["--port", "70000"]) == 2
    said = capsys.readouterr().err
    assert "SNAC_PORT: Input should be less than or equal to 65535" in said
    assert "SNAC_MAX_SECONDS: Input should be greater than 0" in said
