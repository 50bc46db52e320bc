"""Who is let in, from where, and how often."""

from __future__ import annotations

import hmac
import json
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from service import keys
from service.errors import UnauthorizedError
from service.security import ANONYMOUS, check_api_key
from service.settings import Settings
from snac_core.audio import media

ROOT = Path(__file__).parents[2]
ONE, TWO, THREE = "the first of them", "secret-two", "secret-three"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# who may call\n\n{TWO}\n{THREE}  the corpus job\n")
    return path


def test_every_key_of_every_source_has_a_name(key_file: Path) -> None:
    given: dict[str, Any] = {
        "api_key": ONE,
        "api_keys": "secret-a,secret-b,",
        "api_keys_file": key_file,
    }
    settings = Settings(**given)
    given_names = {
        secret: check_api_key(settings, secret)
        for secret in (ONE, "secret-a", "secret-b", TWO, THREE)
    }
    assert list(given_names.values()) == ["key-1", "key-2", "key-3", "key-4", "the corpus job"]
    for wrong in (None, "", ONE[:-1], ONE + " ", "key-1", "ключ к дому"):
        with pytest.raises(UnauthorizedError):
            check_api_key(settings, wrong)
    for secret in given_names:
        assert secret not in repr(settings)
        assert secret not in repr(settings.api_keyring)


def test_without_keys_everybody_is_anonymous() -> None:
    assert check_api_key(Settings(), None) == check_api_key(Settings(), "anything") == ANONYMOUS


@given(st.lists(st.text(min_size=8), min_size=1, unique=True), st.data())
def test_a_key_is_found_wherever_it_stands(secrets: list[str], data: Any) -> None:
    ring = keys.keyring((secret, "") for secret in secrets)
    place = data.draw(st.integers(0, len(secrets) - 1))
    found = keys.find(ring, secrets[place])
    assert found is not None
    assert found.name == f"key-{place + 1}"
    assert keys.find(ring, secrets[place] + "x") is None or secrets[place] + "x" in secrets


@pytest.mark.parametrize("given", [ONE, THREE, "another-secret"])
def test_every_key_is_compared_in_constant_time_whichever_it_is(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    ring = keys.keyring((secret, "") for secret in (ONE, TWO, THREE))
    assert (keys.find(ring, given) is None) is (given == "another-secret")
    assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no key"),
        ("# nobody\n", "has no key"),
        ("short me\n", "me has fewer than 8 characters"),
        ("secret-one x\nsecret-two x\n", "two keys have the same name"),
    ],
)
def test_a_key_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        Settings(api_keys_file=path)
    with pytest.raises(ValueError, match="cannot be read"):
        Settings(admin_keys_file=tmp_path / "missing")


def test_keys_from_a_file_open_the_calls(
    serve: Any, model_ref: str, key_file: Path, samples_of: Any, wav_of: Any
) -> None:
    wav = wav_of(samples_of(0.2))
    with serve(
        model=model_ref,
        device="cpu",
        api_key=ONE,
        api_keys_file=key_file,
        admin_keys="operator-1,operator-2",
    ) as running:
        for secret, status in ((ONE, 200), (TWO, 200), (THREE, 200), ("secret-four", 401)):
            answer = running.http.post("/v1/encode", content=wav, headers={"X-Api-Key": secret})
            assert answer.status_code == status
        for secret, status in (("operator-1", 200), ("operator-2", 200), (ONE, 401)):
            answer = running.http.post("/v1/models/reload", headers={"X-Admin-Key": secret})
            assert answer.status_code == status


@pytest.mark.parametrize(
    "how", [{"host": "0.0.0.0"}, {"host": "::"}, {"published_host": "10.0.0.1"}]
)
def test_other_machines_need_keys_or_an_explicit_no(how: dict[str, Any], key_file: Path) -> None:
    with pytest.raises(ValueError, match="SNAC_ALLOW_ANONYMOUS=true") as caught:
        Settings(**how)
    assert "SNAC_API_KEYS_FILE" in str(caught.value)
    Settings(**{**how, "api_key": ONE})
    Settings(**how, api_keys_file=key_file)
    Settings(**how, allow_anonymous=True)


def test_the_command_refuses_to_be_open_to_a_network() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "service.cli", "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("snac-service: 0.0.0.0 can be reached from other machines")
    assert "Traceback" not in ended.stderr


def test_the_composed_service_is_open_on_this_machine_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"][
        "service"
    ]
    bind = service["environment"]["SNAC_PUBLISHED_HOST"]
    assert service["ports"] == [f"{bind}:${{PORT:-8000}}:8000"]
    assert bind == "${BIND:-127.0.0.1}"
    assert service["environment"]["SNAC_PUBLISHED_PORT"] == "${PORT:-8000}"
    monkeypatch.setenv("SNAC_PUBLISHED_HOST", "127.0.0.1")
    Settings(host="0.0.0.0")
    monkeypatch.setenv("SNAC_PUBLISHED_HOST", "0.0.0.0")
    with pytest.raises(ValueError, match="SNAC_API_KEY"):
        Settings(host="0.0.0.0")


def test_browsers_of_other_sites_are_kept_out_unless_named(serve: Any, model_ref: str) -> None:
    asked = {"Origin": "https://lab.test", "Access-Control-Request-Method": "POST"}
    with serve(model=model_ref, device="cpu") as running:
        for answer in (
            running.http.options("/v1/encode", headers=asked),
            running.http.get("/v1/models", headers=asked),
        ):
            assert "Access-Control-Allow-Origin" not in answer.headers
    with serve(model=model_ref, device="cpu", cors_origins="https://lab.test") as running:
        allowed = running.http.options("/v1/encode", headers=asked)
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://lab.test"
        refused = running.http.post("/v1/encode", content=b"x", headers=asked)
        assert refused.status_code == 400
        assert refused.headers["Access-Control-Allow-Origin"] == "https://lab.test"
        other = running.http.options("/v1/encode", headers={**asked, "Origin": "https://evil.test"})
        assert "Access-Control-Allow-Origin" not in other.headers


def test_answers_tell_browsers_to_be_careful(running: Any) -> None:
    for path in ("/v1/models", "/nowhere", "/health/live", "/metrics", "/docs"):
        headers = running.http.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy


def test_pages_load_scripts_and_styles_of_this_service_only(running: Any) -> None:
    for path in ("/", "/docs", "/docs/streams"):
        answer = running.http.get(path, headers={"Accept": "text/html"})
        parts = answer.headers["Content-Security-Policy"].split(";")
        policy = dict(part.strip().split(" ", 1) for part in parts)
        assert policy["default-src"] == "'none'"
        for kind in ("script-src", "style-src", "connect-src", "font-src"):
            assert policy[kind] == "'self'"
        files = re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="([^"]+)"', answer.text)
        assert files
        for file in files:
            assert "//" not in file
            assert running.http.get(str(httpx.URL(running.url + path).join(file))).is_success, file
        assert not re.findall(r"<style|<script>| style=| on[a-z]+=", answer.text)


def test_bodies_that_are_held_together_are_bounded(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    wav = wav_of(samples_of(0.2))
    with serve(
        model=model_ref, device="cpu", caller_share=1, max_held_bytes=2 * len(wav) + 1000
    ) as running:
        url = httpx.URL(running.url)
        for _ in range(2):
            with socket.create_connection((url.host, url.port or 80)) as uploading:
                head = f"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wav)}\r\n\r\n"
                uploading.sendall(head.encode() + wav[:2000])
                while running.metric("snac_held_bytes") < 2000:
                    time.sleep(0.01)
                answer = running.http.post("/v1/encode", content=wav)
                assert answer.status_code == 429
                assert answer.json()["type"] == "urn:snac:problem:overloaded"
                assert int(answer.headers["Retry-After"]) >= 1
                uploading.sendall(wav[2000:])
                assert uploading.recv(100).startswith(b"HTTP/1.1 200")
            assert running.http.post("/v1/encode", content=wav).status_code == 200
        if media.available():
            # Its process may have more memory than all requests together.
            answer = running.http.post("/v1/encode", content=b"\0\0\0\x18ftypM4A " + bytes(16))
            assert answer.status_code == 413
            assert answer.json()["type"] == "urn:snac:problem:too-large"


def test_each_key_has_its_own_share_of_requests(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    wav = wav_of(samples_of(0.2))
    with serve(
        model=model_ref, device="cpu", api_keys=f"{TWO},{THREE}", rate_limit_requests=3
    ) as running:

        def post(key: str) -> Any:
            return running.http.post("/v1/encode", content=wav, headers={"X-Api-Key": key})

        assert [post(TWO).status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = post(TWO)
        assert refused.json()["type"] == "urn:snac:problem:rate-limited"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert TWO not in refused.text
        assert post(THREE).status_code == 200
        assert running.http.get("/health/ready").status_code == 200


def test_what_the_engine_refuses_is_not_taken_from_a_share(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    wav = wav_of(samples_of(6.0))
    with (
        serve(
            model=model_ref,
            device="cpu",
            api_keys=f"{TWO},{THREE}",
            rate_limit_audio=10,
            max_queue_seconds=8.0,
        ) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        codec = running.service.models.codec
        gate, entered, run = threading.Event(), threading.Event(), codec.run

        def held(steps: Any) -> None:
            entered.set()
            assert gate.wait(300)
            run(steps)

        def post(key: str) -> Any:
            return running.http.post("/v1/encode", content=wav, headers={"X-Api-Key": key})

        codec.run = held
        other = pool.submit(post, THREE)
        assert entered.wait(300)
        refused = [post(TWO).json()["type"] for _ in range(3)]
        gate.set()
        assert other.result(300).is_success
        assert refused == ["urn:snac:problem:overloaded"] * 3
        assert post(TWO).is_success
        assert post(TWO).json()["type"] == "urn:snac:problem:rate-limited"


def test_audio_is_rationed_by_its_seconds_for_each_address(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    with serve(model=model_ref, device="cpu", rate_limit_audio=10) as running:
        # First, and free of charge: reading ends at what the caller has left, which is 429 later.
        longer = running.http.post("/v1/encode", content=wav_of(samples_of(10.5)))
        assert longer.status_code == 413
        assert "10 s a minute" in longer.json()["detail"]
        for seconds, status in ((4.0, 200), (4.0, 200), (4.0, 429), (0.5, 200)):
            answer = running.http.post("/v1/encode", content=wav_of(samples_of(seconds)))
            assert answer.status_code == status, answer.text
        assert running.service.engine.queued_seconds == 0.0


def test_streams_have_the_same_share(serve: Any, model_ref: str) -> None:
    with serve(
        model=model_ref, device="cpu", api_keys=f"{TWO},{THREE}", rate_limit_requests=2
    ) as running:
        url = f"{running.url.replace('http', 'ws')}/v1/stream/decode?layout=flat"

        def opened(key: str) -> AbstractContextManager[ClientConnection]:
            return connect(url, additional_headers={"X-Api-Key": key})

        for _ in range(2):
            with opened(TWO) as stream:
                assert json.loads(stream.recv(300))["type"] == "ready"
        with pytest.raises(InvalidStatus) as caught, opened(TWO):
            pass
        refusal = caught.value.response
        assert refusal.status_code == 429
        assert json.loads(refusal.body)["type"] == "urn:snac:problem:rate-limited"
        assert 1 <= int(refusal.headers["Retry-After"]) <= 60
        with opened(THREE) as stream:
            assert json.loads(stream.recv(300))["type"] == "ready"


def test_the_audio_of_a_stream_is_taken_from_its_callers_share(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    with serve(model=model_ref, device="cpu", rate_limit_audio=3) as running:
        url = f"{running.url.replace('http', 'ws')}/v1/stream/decode?layout=flat"
        with connect(url, ping_interval=None) as stream:
            stream.send(json.dumps([0] * 7 * 60))
            seconds = 0.0
            while seconds < 2.0:
                message = stream.recv(300)
                seconds += len(message) / 2 / 24000 if isinstance(message, bytes) else 0.0
            refused = running.http.post("/v1/encode", content=wav_of(samples_of(2.5)))
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:snac:problem:rate-limited"
