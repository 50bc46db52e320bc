"""Keys, ids, metrics, documentation: what an operator relies on."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from service.server.server import announced_url
from service.settings import Settings

KEY, ADMIN = "an API key", "an operator's key"


def test_request_ids_are_kept_or_made(running: Any) -> None:
    kept = running.http.get("/health/live", headers={"X-Request-Id": "abc-123"})
    assert kept.headers["X-Request-Id"] == "abc-123"
    made = running.http.get("/health/live", headers={"X-Request-Id": "bad id\t{}"})
    assert re.fullmatch("[0-9a-f]{32}", made.headers["X-Request-Id"])
    assert running.http.get("/health/live").headers["X-Request-Id"] != made.headers["X-Request-Id"]


def test_metrics_have_the_names_of_the_domain(running: Any, samples_of: Any, wav_of: Any) -> None:
    encoded = running.http.post("/v1/encode", content=wav_of(samples_of(0.3)))
    running.http.post("/v1/decode", content=encoded.content)
    running.http.get("/nowhere/at/all")
    version, space = encoded.headers["X-Model-Version"], encoded.headers["X-Token-Space"]
    assert running.metric(f'snac_model_info{{token_space="{space}",version="{version}"}}') == 1
    for line in (
        "snac_queue_seconds_count",
        'snac_batch_audio_seconds_count{kind="encode"}',
        'snac_batch_items_sum{kind="decode"}',
        'snac_inference_seconds_count{kind="encode"}',
        'snac_requests_total{outcome="ok",route="/v1/encode"}',
        'snac_request_seconds_count{route="/v1/decode"}',
        'snac_requests_total{outcome="not-found",route="other"}',
    ):
        assert running.metric(line) >= 1, line
    assert running.metric("snac_queue_audio_seconds") == 0
    for outcome in ("succeeded", "failed"):
        assert running.metric(f'snac_reload_total{{outcome="{outcome}"}}') == 0


def test_every_call_documents_its_media_types_and_problems(running: Any) -> None:
    document = running.http.get("/openapi.json").json()
    assert "swagger" in running.http.get("/docs").text
    calls = {
        (method, path): call
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    }
    assert {path for _, path in calls} == {
        "/v1/encode",
        "/v1/encode/batch",
        "/v1/decode",
        "/v1/decode/batch",
        "/v1/reconstruct",
        "/v1/models",
        "/v1/models/current",
        "/v1/models/reload",
        "/v1/models/rollback",
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/metrics",
    }
    for (method, path), call in calls.items():
        for status, answer in call["responses"].items():
            if status != "200":
                assert list(answer["content"]) == ["application/problem+json"], (path, status)
        if method == "post" and "/models/" not in path:
            assert call["requestBody"]["content"], path
            statuses = {"400", "401", "406", "413", "415", "422", "429", "500", "503", "504"}
            assert statuses <= set(call["responses"]), path
    for path in ("/v1/models", "/v1/models/current"):
        assert "429" in calls["get", path]["responses"]
    schemas = document["components"]["schemas"]
    for name in re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)):
        assert name.removeprefix("#/components/schemas/") in schemas
    decode = calls["post", "/v1/decode"]
    assert set(decode["responses"]["200"]["content"]) == {
        "audio/wav",
        "audio/flac",
        "audio/ogg",
        "audio/pcm",
    }
    assert "409" in decode["responses"]
    encode = calls["post", "/v1/encode"]["responses"]["200"]["content"]
    assert set(encode) == {"application/json", "application/x-npz", "application/msgpack"}


def test_the_front_door_is_a_page_for_browsers_and_a_list_for_programs(running: Any) -> None:
    browser = running.http.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert browser.headers["Content-Type"].startswith("text/html")
    assert "<h1" in browser.text
    program = running.http.get("/", headers={"Accept": "application/json"}).json()
    for path in program["links"].values():
        assert running.http.get(path).status_code == 200, path


def test_keys_guard_what_they_should(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    wav = wav_of(samples_of(0.2))
    with serve(model=model_ref, device="cpu", api_key=KEY, admin_key=ADMIN) as running:

        def status(method: str, path: str, **headers: str) -> int:
            content = wav if path == "/v1/encode" else None
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            answer = running.http.request(method, path, content=content, headers=names)
            return int(answer.status_code)

        for method, path in (("POST", "/v1/encode"), ("GET", "/v1/models")):
            assert status(method, path) == 401
            assert status(method, path, X_Api_Key="a key of the mouse") == 401
            assert status(method, path, X_Admin_Key=ADMIN) == 401
            assert status(method, path, X_Api_Key=KEY) == 200
        assert status("POST", "/v1/models/reload", X_Api_Key=KEY) == 401
        assert status("POST", "/v1/models/reload", X_Admin_Key=KEY) == 401
        assert status("POST", "/v1/models/reload", X_Admin_Key=ADMIN) == 200
        assert status("GET", "/health/ready") == 200
        assert status("GET", "/metrics") == 200
        refused = running.http.post("/v1/encode", content=wav)
        assert refused.headers["WWW-Authenticate"] == "ApiKey"
        assert KEY not in refused.text


def test_without_a_key_operators_calls_are_open_on_loopback_only(
    serve: Any, model_ref: str
) -> None:
    with serve(model=model_ref, device="cpu") as running:
        assert running.http.post("/v1/models/reload").status_code == 200
        browser = running.http.post("/v1/models/reload", headers={"Origin": "http://evil.test"})
        assert browser.status_code == 403
    with serve(model=model_ref, device="cpu", host="0.0.0.0", allow_anonymous=True) as running:
        refused = running.http.post("/v1/models/reload")
        assert refused.status_code == 403
        assert "SNAC_ADMIN_KEY" in refused.json()["detail"]
    published = {"host": "0.0.0.0", "published_host": "[::1]"}
    with serve(model=model_ref, device="cpu", **published) as running:
        assert running.http.post("/v1/models/reload").status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert Settings(host=host, allow_anonymous=True).on_loopback is expected


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"host": "127.0.0.1"}, "http://127.0.0.1:8000"),
        ({"host": "::"}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "published_host": "10.1.2.3"}, "http://10.1.2.3:8000"),
        ({"published_host": "[::1]", "published_port": 9123}, "http://[::1]:9123"),
    ],
)
def test_the_announced_url_is_the_published_one(how: dict[str, Any], expected: str) -> None:
    assert announced_url(Settings(**how, allow_anonymous=True), 8000) == expected


def test_settings_come_from_the_environment_and_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SNAC_MAX_SECONDS", "12.5")
    monkeypatch.setenv("SNAC_API_KEY", KEY)
    settings = Settings()
    assert settings.max_seconds == 12.5
    assert KEY not in repr(settings)
    monkeypatch.setenv("SNAC_PORT", "70000")
    with pytest.raises(ValueError, match="65535"):
        Settings()
    assert all(field.description for field in Settings.model_fields.values())
