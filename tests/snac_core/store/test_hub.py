"""The Hugging Face Hub, by its real client against a server of our own."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

import snac_core
from tests.support.upstream import write_upstream

PROGRAM = Path(__file__).with_name("load_each.py")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The part of the hub's HTTP interface that downloading uses."""

    def __init__(self, root: Path) -> None:
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                owner, name, _, revision, file = self.path.strip("/").split("/", 4)
                code = None
                if not (root / owner / name).is_dir():
                    code = "RepoNotFound"
                elif revision not in ("main", "v2", COMMIT):
                    code = "RevisionNotFound"
                elif not (root / owner / name / file).is_file():
                    code = "EntryNotFound"
                content = b"" if code else (root / owner / name / file).read_bytes()
                self.send_response(404 if code else 200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("X-Repo-Commit", COMMIT)
                etag = f"{hash(content) & 0xFFFFFFFF:08x}-{len(content)}"
                self.send_header("ETag", '"../../../escaped"' if name == "liar" else f'"{etag}"')
                if code:
                    self.send_header("X-Error-Code", code)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def load_each(folder: Path, endpoint: str, *refs: str, offline: bool = False) -> dict[str, str]:
    """Load each reference in a process of its own, with a cache under ``folder``."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), *refs],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(refs, done.stdout.splitlines(), strict=True))


@dataclasses.dataclass
class Downloaded:
    """What loading from a hub gave, and what was asked of it."""

    folder: Path
    answers: dict[str, str]
    expected: dict[str, str]
    requests: list[str]


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Downloaded:
    folder = tmp_path_factory.mktemp("hub")
    both, pickled, empty, liar = (
        folder / "hub" / "owner" / name for name in ("both", "pickled", "empty", "liar")
    )
    for repository in (both, pickled, empty, liar):
        model = write_upstream(repository)
    safetensors.torch.save_file(model.state_dict(), both / "model.safetensors")
    (empty / "pytorch_model.bin").unlink()
    expected = {}
    for ref in ("owner/pickled", "owner/both", "owner/pickled@v2"):
        codec = snac_core.load(folder / "hub" / ref.split("@")[0], device="cpu")
        expected[ref] = f"{codec.version} {codec.token_space}"

    hub = Hub(folder / "hub")
    refused = ("owner/absent", "owner/both@v9", "owner/empty", "owner/na--me", "owner/liar")
    answers = load_each(folder, hub.endpoint, *expected, *refused)
    hub.server.shutdown()
    hub.server.server_close()
    return Downloaded(folder, answers, expected, hub.requests)


def test_the_hub_is_asked_for_each_file_once(downloaded: Downloaded) -> None:
    for ref, answer in downloaded.expected.items():
        assert downloaded.answers[ref] == answer
    fetched = [request for request in downloaded.requests if request.startswith("GET")]
    assert sorted(fetched) == sorted(
        [
            "GET /owner/pickled/resolve/main/config.json",
            f"GET /owner/pickled/resolve/{COMMIT}/pytorch_model.bin",
            "GET /owner/both/resolve/main/config.json",
            f"GET /owner/both/resolve/{COMMIT}/model.safetensors",
            "GET /owner/empty/resolve/main/config.json",
        ]
    ), "safetensors if there, both files of one commit, nothing twice"


def test_what_the_hub_does_not_have_is_said(downloaded: Downloaded) -> None:
    answers, folder = downloaded.answers, downloaded.folder
    assert answers["owner/absent"] == (
        f"error: no model 'owner/absent': {folder}/owner/absent does not exist; "
        "the Hugging Face Hub has no model 'owner/absent' that this machine may read"
    )
    assert answers["owner/both@v9"].endswith("'owner/both' on the Hugging Face Hub has no 'v9'")
    assert answers["owner/empty"].startswith("error: 'owner/empty' cannot be had")
    assert "pytorch_model.bin" in answers["owner/empty"]
    assert answers["owner/na--me"].startswith("error: 'owner/na--me' cannot be had")


def test_a_hub_that_lies_about_a_file_s_tag_writes_nowhere(downloaded: Downloaded) -> None:
    assert downloaded.answers["owner/liar"] == (
        "error: the hub names a file '../../../escaped', which is no file name"
    )
    assert not list(downloaded.folder.rglob("*escaped*"))


def test_offline_only_the_cache_is_used(downloaded: Downloaded) -> None:
    answers = load_each(
        downloaded.folder, closed_endpoint(), *downloaded.expected, "owner/new", offline=True
    )
    refused = answers.pop("owner/new")
    assert answers == downloaded.expected
    assert refused.startswith("error: 'owner/new' cannot be had")
    assert "offline" in refused


def test_without_the_hub_the_cache_still_serves(downloaded: Downloaded) -> None:
    answers = load_each(downloaded.folder, closed_endpoint(), *downloaded.expected, "owner/new")
    refused = answers.pop("owner/new")
    assert answers == downloaded.expected
    assert refused.startswith(
        "error: 'owner/new' cannot be had from the Hugging Face Hub and is not in its cache: "
    )
    assert "refused" in refused


def closed_endpoint() -> str:
    """Return the address of a port on which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"
