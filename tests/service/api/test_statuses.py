"""Every status that `/openapi.json` names is met, on a running service, by every call it names."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from service.models.manager import VersionState
from snac_core.store import ModelStore

KEY, ADMIN = "an API key", "an operator's key"
PAGE = Path(__file__).parents[3] / "docs" / "api.md"

READING = ["POST /v1/encode", "POST /v1/encode/batch", "POST /v1/reconstruct"]
DECODING = ["POST /v1/decode", "POST /v1/decode/batch"]
COMPUTING = READING + DECODING
LISTING = ["GET /v1/models", "GET /v1/models/current"]
OPERATING = ["POST /v1/models/reload", "POST /v1/models/rollback"]
CUT_OFF = [*OPERATING, LISTING[0]]
"""Those that may take longer than a stopping service waits for them."""
PROBES = ["GET /health/live", "GET /health/ready", "GET /health/startup"]


class Answer(NamedTuple):
    """As much of an answer as is looked at."""

    status: int
    media: str | None
    request_id: str | None
    body: bytes


def answer_of(response: httpx.Response) -> Answer:
    headers = response.headers
    return Answer(
        response.status_code,
        headers.get("Content-Type"),
        headers.get("X-Request-Id"),
        response.content,
    )


def ask(running: Any, call: str, body: bytes | None = None, **headers: str) -> Answer:
    """Send a call that a service without faults lets in, but for what is given."""
    method, path = call.split()
    names = {"X-Api-Key": KEY, "X-Admin-Key": ADMIN}
    if path.endswith("encode/batch"):
        names["Content-Type"] = "multipart/form-data; boundary=x"
    names.update((name.replace("_", "-"), value) for name, value in headers.items())
    return answer_of(running.http.request(method, path, content=body, headers=names))


def begin(running: Any, call: str, **headers: str) -> Answer:
    """Send the head of a call and a little of its body, and wait for what is said to that."""
    method, path = call.split()
    url = httpx.URL(running.url)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=300)
    try:
        connection.putrequest(method, path)
        media = "multipart/form-data; boundary=x" if path.endswith("encode/batch") else ""
        for name, value in {"X-Api-Key": KEY, "Content-Type": media, **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Content-Length", "900")
        connection.endheaders(b"-")
        answer = connection.getresponse()
        ids = answer.getheader("X-Request-Id")
        return Answer(answer.status, answer.getheader("Content-Type"), ids, answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def guarded(serve: Any, model_ref: str) -> Iterator[Any]:
    """A server that wants keys, has no model store, and lets nobody send much or slowly."""
    folder = ModelStore(model_ref).path(ModelStore(model_ref).current() or "")
    with serve(
        model=str(folder),
        device="cpu",
        api_key=KEY,
        admin_key=ADMIN,
        max_body_bytes=10_000,
        body_timeout=0.5,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def rationed(serve: Any, model_ref: str) -> Iterator[Any]:
    """A server that has let this address in as often as it does in a minute."""
    with serve(model=model_ref, device="cpu", rate_limit_requests=1) as running:
        assert running.http.get("/v1/models").status_code == 200
        yield running


@pytest.fixture(scope="module")
def empty(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that found no model."""
    nothing = str(tmp_path_factory.mktemp("empty") / "nothing")
    with serve(model=nothing, device="cpu", loads=False) as running:
        yield running


@pytest.fixture
def defective(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server with defects that nobody foresaw."""

    def fail(*_: object, **__: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(guarded.service.rates, "count_request", fail)
    monkeypatch.setattr(guarded.service.models, "check", fail)
    monkeypatch.setattr(guarded.service.models, "roll_back", fail)
    return guarded


@pytest.fixture(scope="module")
def cut_off(serve: Any, model_ref: str) -> dict[str, Answer]:
    """What calls are told that were under way when the service stopped."""
    begun, go_on = threading.Event(), threading.Event()
    with ThreadPoolExecutor(len(CUT_OFF)) as pool, contextlib.ExitStack() as held:
        with serve(model=model_ref, device="cpu", drain_timeout=0) as running:
            models = running.service.models
            # As another reload would hold it, that takes its time.
            held.enter_context(models._lock)
            describe: Callable[[], list[VersionState]] = models.describe

            def from_a_slow_volume() -> list[VersionState]:
                begun.set()
                assert go_on.wait(300)
                return describe()

            models.describe = from_a_slow_volume
            answers = {}
            for call in CUT_OFF:
                method, path = call.split()
                answers[call] = pool.submit(httpx.request, method, running.url + path, timeout=300)
            answers[LISTING[0]].add_done_callback(lambda _: go_on.set())
            assert begun.wait(300)
            deadline = time.monotonic() + 300
            while models._loader.waiting < len(OPERATING) - 1:
                assert time.monotonic() < deadline, "the calls did not begin within 300 s"
                time.sleep(0.01)
        return {call: answer_of(answer.result()) for call, answer in answers.items()}


class Case(NamedTuple):
    """Calls, the status that each is to be answered with, the problem, and how to get it."""

    calls: list[str]
    status: int
    problem: str
    provoke: Callable[[Any, str], Answer]
    server: str = "guarded"


CODES = json.dumps({"codes": [[1], [2, 3], [4, 5, 6, 7]], "token_space": "another"}).encode()
CASES = [
    Case(
        ["POST /v1/encode", "POST /v1/reconstruct"],
        400,
        "unreadable-audio",
        lambda to, call: ask(to, call, b"no audio"),
    ),
    Case(DECODING, 400, "malformed-body", lambda to, call: ask(to, call, b'{"codes": [[1]')),
    Case(
        ["POST /v1/encode/batch"],
        400,
        "malformed-body",
        lambda to, call: ask(to, call, b"x", Content_Type="multipart/form-data"),
    ),
    Case(COMPUTING + LISTING, 401, "unauthorized", lambda to, call: ask(to, call, X_Api_Key="no")),
    Case(OPERATING, 401, "unauthorized", lambda to, call: ask(to, call, X_Admin_Key="no")),
    Case(OPERATING, 403, "forbidden", lambda to, call: ask(to, call, Origin="null"), "running"),
    Case(COMPUTING, 406, "not-acceptable", lambda to, call: ask(to, call, Accept="text/html")),
    Case(COMPUTING, 408, "slow-client", begin),
    Case(["POST /v1/decode"], 409, "token-space", lambda to, call: ask(to, call, CODES)),
    Case(OPERATING, 409, "reload-failed", ask),
    Case(COMPUTING, 413, "too-large", lambda to, call: ask(to, call, bytes(20_000))),
    Case(COMPUTING, 415, "unsupported-media", lambda to, call: ask(to, call, Content_Type="a/b")),
    Case(COMPUTING, 422, "invalid-request", lambda to, call: ask(to, call, X_Request_Timeout="0")),
    Case(
        OPERATING,
        422,
        "invalid-request",
        lambda to, call: ask(to, f"{call}?allow_token_space_change=perhaps"),
    ),
    Case(COMPUTING + LISTING, 429, "rate-limited", ask, "rationed"),
    Case(COMPUTING + LISTING + OPERATING, 500, "internal", ask, "defective"),
    Case([*COMPUTING, LISTING[1], *PROBES], 503, "not-ready", ask, "empty"),
    Case(
        [*OPERATING, LISTING[0]], 503, "not-ready", lambda answers, call: answers[call], "cut_off"
    ),
    Case(COMPUTING, 504, "deadline", lambda to, call: begin(to, call, X_Request_Timeout="0.1")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.status}-{case.problem}")
def test_a_documented_status_is_met(case: Case, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(case.server)
    with ThreadPoolExecutor(len(case.calls)) as pool:
        answers = list(pool.map(lambda call: case.provoke(server, call), case.calls))
    for call, answer in zip(case.calls, answers, strict=True):
        assert answer.status == case.status, (call, answer.body)
        assert answer.media == "application/problem+json"
        problem = json.loads(answer.body)
        assert problem["type"] == f"urn:snac:problem:{case.problem}"
        assert problem["status"] == case.status
        assert problem["title"]
        assert problem["detail"]
        assert problem["instance"] == call.split()[1]
        assert problem["request_id"] == answer.request_id


def test_no_other_status_is_documented(running: Any) -> None:
    document = running.http.get("/openapi.json").json()
    documented = {
        (f"{method.upper()} {path}", int(status))
        for path, methods in document["paths"].items()
        for method, call in methods.items()
        for status in call["responses"]
    }
    met = {(call, case.status) for case in CASES for call in case.calls}
    met |= {(call, 200) for call in {call for call, _ in documented}}
    assert documented - met == set()
    assert met - documented == set()


def test_the_page_lists_every_status(running: Any) -> None:
    for call, status in (("GET /v1/encode", 405), ("GET /nowhere", 404)):
        assert ask(running, call).status == status
    listed = re.findall(r"^\| ([0-9, ]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    numbers = {int(number) for cell in listed for number in cell.split(", ")}
    assert numbers == {404, 405, *(case.status for case in CASES)}
