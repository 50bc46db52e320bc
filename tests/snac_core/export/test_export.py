"""Models in the formats of others, read by their own programs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import snac_core
from snac_core.cli import main
from snac_core.config import SnacConfig
from snac_core.model.noise import Noise
from snac_core.store import ModelStore
from tests.support.models import TINY, TINY_ATTENTION, random_weights
from tests.support.upstream import upstream_levels


def speechlike(samples: int, rate: int) -> Any:
    time = np.arange(samples) / rate
    rng = np.random.default_rng(samples)
    tone = 0.4 * np.sin(2 * np.pi * (120 + 40 * np.sin(3 * time)) * time)
    return (tone * np.sin(4 * time) + rng.normal(0, 0.02, samples)).astype(np.float32)


def published(folder: Path, config: SnacConfig) -> Path:
    store = ModelStore(folder)
    store.publish(config, random_weights(config, seed=3), metrics={"stoi": 0.9})
    return store.root


@pytest.fixture(scope="module", params=["starter", "attention"])
def ref(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "starter":
        return "starter"
    return str(published(tmp_path_factory.mktemp("store"), TINY_ATTENTION))


def test_the_published_package_loads_an_export(
    ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["export", ref, "--format", "upstream", str(tmp_path / "out")]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import snac

    codec = snac_core.load(ref, "cpu")
    model = snac.SNAC.from_pretrained(str(tmp_path / "out")).eval()
    samples = speechlike(3 * codec.config.pad_multiple, codec.sample_rate)
    (codes,) = codec.encode([samples])
    assert upstream_levels(model, samples) == [level.tolist() for level in codes.levels]
    # Its noise has no seed.
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: torch.zeros(shape[0]))
    levels = [torch.from_numpy(level)[None].long() for level in codes.levels]
    with torch.no_grad():
        audio = model.decode(levels)[0, 0].numpy()
    (expected,) = codec.decode([codes], noise="off")
    np.testing.assert_allclose(audio[: len(expected)], expected, atol=2e-5)
    assert snac_core.load(tmp_path / "out", "cpu").token_space == codec.token_space


def test_onnx_runtime_gives_our_codes_and_audio_at_any_length(
    ref: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", ref, str(tmp_path), "--format", "onnx"]) == 0
    shown = capsys.readouterr().out
    assert "ConvTranspose" in shown
    # None that a runtime in a browser lacks.
    assert not {"Scan", "Loop", "If"} & set(shown.replace(",", " ").split())
    codec = snac_core.load(ref, "cpu")
    encoder, decoder = (
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        for name in ("encoder.onnx", "decoder.onnx")
    )
    about = encoder.get_modelmeta().custom_metadata_map
    assert about["token_space"] == codec.token_space
    assert SnacConfig.from_dict(json.loads(about["config"])) == codec.config
    for length in (codec.config.pad_multiple, 7001, 2 * codec.config.pad_multiple + 1):
        samples = speechlike(length, codec.sample_rate)
        (codes,) = codec.encode([samples])
        found = encoder.run(None, {"audio": samples[None, None]})
        assert [level[0].tolist() for level in found] == [level.tolist() for level in codes.levels]
        inputs = {f"codes_{index}": level for index, level in enumerate(found)}
        latents = len(codes.levels[-1]) * codec.config.vq_strides[-1]
        for mode, scale in (("off", 0.0), ("seeded", 1.0)):
            noise = Noise(torch.tensor([5]), torch.tensor([0]))
            step = 1
            for block, rate in enumerate(codec.config.decoder_rates):
                step *= rate
                drawn = noise.normal(block, codec.config.hop // step, latents * step)
                inputs[f"noise_{block}"] = scale * drawn.numpy()
            (audio,) = decoder.run(None, inputs)
            (expected,) = codec.decode([codes], noise=mode, seed=5)  # type: ignore[arg-type]
            np.testing.assert_allclose(audio[0, 0, : len(expected)], expected, atol=1e-4)


class UploadHub:
    """The part of the hub's HTTP interface that uploading uses."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.authorized: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer({"siblings": [], "sha": "0" * 40, "id": "someone/voice"})

            def do_POST(self) -> None:
                hub.authorized.add(self.headers["Authorization"])
                body = self.body()
                if self.path == "/api/repos/create":
                    hub.created.append(json.loads(body))
                    self.answer({"url": f"{hub.endpoint}/someone/voice"})
                elif self.path.endswith("/preupload/main"):
                    names = [file["path"] for file in json.loads(body)["files"]]
                    plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                    self.answer({"files": [{"path": name, **plain} for name in names]})
                elif self.path.endswith("/commit/main"):
                    for line in body.splitlines():
                        item = json.loads(line)
                        if item["key"] == "file":
                            value = item["value"]
                            hub.files[value["path"]] = base64.b64decode(value["content"])
                    url = f"{hub.endpoint}/someone/voice/commit/{'1' * 40}"
                    self.answer({"commitUrl": url, "commitOid": "1" * 40})
                else:
                    self.answer({})

            def body(self) -> bytes:
                if self.headers["Transfer-Encoding"] == "chunked":
                    parts = []
                    while size := int(self.rfile.readline(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers["Content-Length"] or 0))

            def answer(self, content: Any) -> None:
                data = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_a_model_is_pushed_to_a_hub_with_its_card(tmp_path: Path) -> None:
    model, hub = published(tmp_path / "store", TINY), UploadHub()
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "snac_core.cli", "export", str(model), str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--push", "someone/voice"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    hub.server.shutdown()
    hub.server.server_close()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"pushed to {hub.endpoint}/someone/voice/commit/" in done.stdout
    assert [(one["organization"], one["name"]) for one in hub.created] == [("someone", "voice")]
    assert hub.authorized == {"Bearer hf_secret"}
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert hub.files == written
    assert hub.files.keys() == {"config.json", "pytorch_model.bin", "README.md"}
    card = hub.files["README.md"].decode()
    assert '"stoi": 0.9' in card
    assert snac_core.load(model, "cpu").token_space in card
