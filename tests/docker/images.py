"""The images as built and run by a Docker daemon: ``make images-test``.

Not part of ``make test``: it builds three images and trains in one of them. Docker's and compose's
own variables count, and those of the compose file, such as ``TORCH_INDEX``.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
MOST_BYTES = {"snac-service": 1.0e9, "snac-trainer": 1.7e9, "snac-bulk": 1.6e9}
RATE = 24000
CONFIG = json.loads((ROOT / "docker" / "finetune.json").read_text("utf-8")) | {
    "batch_size": 2,
    "num_epochs": 1,
    "num_workers": 0,
    "curriculum": [{"epochs": [1, 1], "length": 0.5}],
}


def have_daemon() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not have_daemon(), reason="no Docker daemon answers")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def say(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


def docker(*words: str) -> str:
    """Run the client; fail with what it says."""
    command = ["docker", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"docker {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    )
    return done.stdout


class Project:
    """The compose project under test."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data, self.recordings = folder / "dataset", folder / "recordings"
        config = folder / "config.json"
        config.write_text(json.dumps(CONFIG))
        config.chmod(0o644)
        os.environ |= {
            "COMPOSE_PROJECT_NAME": "snac-images-test",
            "PORT": str(self.port),
            "DATASET": str(self.data),
            "RECORDINGS": str(self.recordings),
            "CONFIG": str(config),
            "SNAC_MAX_SECONDS": "30",
            "SNAC_RELOAD_INTERVAL": "0.5",
            "SNAC_OTLP_ENDPOINT": "http://127.0.0.1:9",
        }

    def compose(self, *words: str) -> str:
        """Run compose in the checkout."""
        return docker("compose", *words)


def sound(seconds: float, seed: int = 0) -> bytes:
    random = np.random.default_rng(seed)
    file = io.BytesIO()
    samples = 0.1 * random.standard_normal(round(seconds * RATE))
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("images")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    project = Project(folder)
    began = time.monotonic()
    project.compose("--profile", "train", "build")
    index = os.environ.get("TORCH_INDEX")
    build = ["build", "--network", "host", "--file", "docker/bulk.Dockerfile"]
    build += [] if index is None else ["--build-arg", f"TORCH_INDEX={index}"]
    docker(*build, "--tag", "snac-bulk", ".")
    say(f"built in {time.monotonic() - began:.0f} s")
    try:
        project.compose("up", "--detach", "--wait", "--wait-timeout", "400", "service")
        yield project
    finally:
        project.compose("--profile", "train", "--profile", "prepare", "down", "--volumes")


def version(project: Project) -> str:
    found: str = httpx.get(project.url + "/v1/models/current").json()["version"]
    return found


@pytest.mark.parametrize("image", MOST_BYTES)
def test_size(image: str, project: Project) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    say(f"{image}: {size / 1e9:.2f} GB")
    assert size < MOST_BYTES[image]


def test_serves_what_is_posted_under_the_url_that_it_announces(project: Project) -> None:
    codes = httpx.post(project.url + "/v1/encode", content=sound(2), timeout=60)
    assert [len(level) for level in codes.json()["codes"]] == [24, 48, 96]
    audio = httpx.post(project.url + "/v1/decode", json=codes.json(), timeout=60)
    assert audio.content[:4] == b"RIFF"
    log = project.compose("logs", "--no-log-prefix", "service")
    assert f'"url": "{project.url}"' in log
    assert "no compiled kernels" not in log


def test_settings_arrive(project: Project) -> None:
    answer = httpx.post(project.url + "/v1/encode", content=sound(31), timeout=60)
    assert answer.json()["type"].endswith("audio-too-long")


def test_runs_without_privileges_and_every_command_starts(project: Project) -> None:
    assert project.compose("exec", "service", "id", "-u").strip() == "10001"
    for image, expected in (
        ("snac-service", {"snac-codec", "snac-service"}),
        ("snac-trainer", {"snac-codec", "snac-trainer"}),
        ("snac-bulk", {"snac-codec", "snac-bulk"}),
    ):
        shell = ["run", "--rm", "--user", "31337", "--entrypoint", "sh", image, "-c"]
        names = docker(*shell, "cd /opt/snac/bin && ls -d snac-*").split()
        assert set(names) == expected
        docker(*shell, " && ".join(f"{name} --help > /dev/null" for name in names))


def test_a_published_version_is_taken_up_and_operators_calls_are_open(project: Project) -> None:
    project.recordings.mkdir()
    project.data.mkdir()
    for seed in range(10):
        (project.recordings / f"{seed}.wav").write_bytes(sound(1, seed))
    for path in (project.recordings, project.data, *project.recordings.iterdir()):
        os.chown(path, 1234, 1234)
    project.compose("run", "--rm", "prepare", "--train-ratio", "0.8")
    owners = {path.stat().st_uid for path in project.data.rglob("*")}
    assert owners == {1234}
    trained = [f"--set={key}" for key in ("train_data=/data/train", "val_data=/data/val")]
    trained += ["--config=/config.json", "--set=output_dir=/runs/test"]
    project.compose("run", "--rm", "trainer", "train", *trained)
    before = version(project)
    published = ["--checkpoint", "/runs/test/best_model.pt", "--store", "/models"]
    project.compose("run", "--rm", "trainer", "publish", *published)
    assert httpx.post(project.url + "/v1/models/reload", timeout=120).status_code == 200
    assert version(project) != before
    assert httpx.post(project.url + "/v1/encode", content=sound(1), timeout=60).status_code == 200


def test_a_corpus_is_tokenized_on_ray_that_kuberay_could_start(
    project: Project, tmp_path: Path
) -> None:
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    tokens.chmod(0o777)
    for seed in range(3):
        (tmp_path / f"{seed}.wav").write_bytes(sound(2, seed))
    run = ["run", "--rm", "--init", "--shm-size", "1g", "--read-only", "--tmpfs", "/tmp:exec"]
    run += ["--tmpfs", "/home/snac:uid=10001,gid=10001", "--cap-drop", "ALL"]
    run += ["--volume", f"{tmp_path}:/corpus:ro", "--volume", f"{tokens}:/tokens"]
    # As KubeRay runs what it is given: a login shell, on a cluster that was started before. Its
    # probes need wget.
    words = "ray start --head --num-cpus 2 > /dev/null && command -v wget > /dev/null"
    words += " && snac-bulk encode /corpus --output /tokens --device cpu --address auto"
    words += " && snac-bulk verify /tokens"
    said = docker(*run, "--entrypoint", "bash", "snac-bulk", "-lc", words)
    assert "no compiled kernels" not in said
    rows = sum(pyarrow.parquet.read_metadata(file).num_rows for file in tokens.rglob("*.parquet"))
    assert rows == 3


def test_the_trainer_names_a_folder_that_is_not_there_and_makes_none(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATASET", str(tmp_path / "nowhere"))
    words = [
        "docker",
        "compose",
        "--project-directory",
        str(ROOT),
        "run",
        "--rm",
        "trainer",
        "--help",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert str(tmp_path / "nowhere") in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_large_uploads_in_little_memory_are_refused_and_kill_nothing(project: Project) -> None:
    port = free_port()
    options = ["--memory", "512m", "--read-only", "--publish", f"127.0.0.1:{port}:8000"]
    options += ["--env", "SNAC_PUBLISHED_HOST=127.0.0.1", "--cap-drop", "ALL"]
    name = docker("run", "--detach", *options, "snac-service").strip()
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url)
        body = sound(2400)
        assert len(body) > 115e6 / 1.01

        def post(_: int) -> int:
            return httpx.post(url + "/v1/encode", content=body, timeout=300).status_code

        with ThreadPoolExecutor(3) as pool:
            statuses = list(pool.map(post, range(3)))
        say(f"three uploads of {len(body) / 1e6:.0f} MB in 512 MB: {statuses}")
        assert set(statuses) <= {200, 413, 429}
        state = json.loads(docker("inspect", "--format", "{{json .State}}", name))
        assert state["Running"]
        assert not state["OOMKilled"]
        assert httpx.post(url + "/v1/encode", content=sound(1), timeout=60).status_code == 200
    finally:
        docker("rm", "--force", name)


def wait_until_ready(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(url + "/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{url} is not ready")


def test_ends_with_its_requests_answered(project: Project) -> None:
    def post() -> Any:
        return httpx.post(project.url + "/v1/encode", content=sound(25), timeout=120)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post)
        time.sleep(0.5)
        project.compose("stop", "service")
        assert answer.result().status_code == 200
    name = project.compose("ps", "--all", "--quiet", "service").strip()
    assert docker("inspect", "--format", "{{.State.ExitCode}}", name).strip() == "0"
