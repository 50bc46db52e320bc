from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from docker.slim import slim
from snac_core.kernels import build

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return (instruction, argument) pairs, continued lines joined and comments left out."""
    lines = [line for line in dockerfile.read_text("utf-8").splitlines() if line[:1] != "#"]
    logical = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in logical if line.strip()]


def arguments(dockerfile: Path, name: str) -> list[str]:
    return [argument for instruction, argument in instructions(dockerfile) if instruction == name]


def sources(dockerfile: Path) -> list[str]:
    """Return what is copied from the checkout."""
    copies = [one.split() for one in arguments(dockerfile, "COPY") if not one.startswith("--from")]
    return [source for words in copies for source in words[:-1]]


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.name)
def dockerfile(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_is_an_image_for_each_program_and_the_chart_names_them() -> None:
    names = [path.name.removesuffix(".Dockerfile") for path in DOCKERFILES]
    assert names == ["bulk", "service", "trainer"]
    values = yaml.safe_load((ROOT / "docker/chart/values.yaml").read_text("utf-8"))
    images = (values["image"], values["bulk"]["image"], values["training"]["image"])
    assert {f"snac-{name}" for name in names} == {image["repository"] for image in images}


def test_every_copied_path_exists_and_reaches_the_build(dockerfile: Path) -> None:
    admitted = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    copied = sources(dockerfile)
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert admitted & {source, source.split("/")[0]}, f".dockerignore keeps {source} out"


def test_runs_as_a_user_without_privileges_from_the_last_stage_on(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    last_stage = max(index for index, (name, _) in enumerate(steps) if name == "FROM")
    users = [argument for name, argument in steps[last_stage:] if name == "USER"]
    # Kubernetes' runAsNonRoot takes numbers only.
    assert users == ["10001:10001"]
    after = [name for name, _ in steps[steps.index(("USER", users[0])) :]]
    assert "RUN" not in after
    assert {"CMD", "ENTRYPOINT"} & set(after)


def test_images_share_one_user_id_so_that_they_can_share_a_volume() -> None:
    ids = {re.findall(r"--uid (\d+)", path.read_text("utf-8"))[0] for path in DOCKERFILES}
    assert len(ids) == 1


def test_commands_are_in_exec_form_so_that_signals_arrive(dockerfile: Path) -> None:
    commands = arguments(dockerfile, "CMD") + arguments(dockerfile, "ENTRYPOINT")
    commands += [health.split("CMD ")[1] for health in arguments(dockerfile, "HEALTHCHECK")]
    assert commands
    for command in commands:
        assert all(isinstance(word, str) for word in json.loads(command))


def test_starts_a_command_that_the_project_installs(dockerfile: Path) -> None:
    start = (arguments(dockerfile, "ENTRYPOINT") + arguments(dockerfile, "CMD"))[0]
    assert json.loads(start)[0] in PROJECT["scripts"]


def test_base_images_are_pinned_to_a_python_that_the_project_supports(dockerfile: Path) -> None:
    minimum = tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    stages = [argument.split() for argument in arguments(dockerfile, "FROM")]
    bases = {words[0] for words in stages} - {words[-1] for words in stages if "AS" in words}
    assert len(bases) == 1
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim", bases.pop())
    assert version is not None
    assert tuple(map(int, version.groups())) >= minimum
    named = re.findall(r"/lib/python([\d.]+)/", dockerfile.read_text("utf-8"))
    assert set(named) <= {".".join(version.groups())}


@pytest.mark.parametrize("image", ["service", "bulk"])
def test_kernels_are_built_from_all_that_decides_them_and_nothing_else(image: str) -> None:
    dockerfile = ROOT / "docker" / f"{image}.Dockerfile"
    copied = {one for one in sources(dockerfile) if one.startswith("snac_core/")}
    needed = {f"snac_core/kernels/{name}.cpp" for name in build.SOURCES}
    loaded = subprocess.run(
        [sys.executable, "-m", "tests.docker.loaded_by_kernels"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert copied == needed | {str(Path(path).relative_to(ROOT)) for path in loaded}


def test_commands_whose_code_is_not_in_the_image_are_not_there(dockerfile: Path) -> None:
    copied = set(sources(dockerfile))
    (code,) = [one for one in arguments(dockerfile, "RUN") if "--prefix" in one]
    removed = set(re.findall(r"/code/bin/(\S+)", code))
    without = {name for name, start in PROJECT["scripts"].items() if start.split(".")[0] in copied}
    assert removed == PROJECT["scripts"].keys() - without


def test_slimming_removes_what_it_names_and_keeps_what_is_asked_for(tmp_path: Path) -> None:
    kept = ["torch/nn/a.py", "torch/bin/torch_shm_manager", "torch/lib/libtorch.so", "pipes/a.py"]
    headers = ["torch/include/a.h", "numpy/_core/include/numpy/a.h"]
    others = ["torch/test/a.py", "torch/bin/test_api", "torch/bin/protoc", "torch/lib/liba.a"]
    others += ["numpy/_core/tests/a.py", "scipy/stats/tests/a.py", "pip/a.py", "pip-1.dist-info/a"]
    for name in (*kept, *headers, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    assert slim(tmp_path, ["headers"]) == 2 * len(others)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {
        *kept,
        *headers,
    }
    slim(tmp_path)
    assert not (tmp_path / "torch/include").exists()
    with pytest.raises(SystemExit, match="no group heads"):
        slim(tmp_path, ["heads"])


@pytest.mark.parametrize("extras", [[], ["train"], ["tracing", "media"]])
def test_requirements_are_those_of_the_project(extras: list[str]) -> None:
    printed = subprocess.run(
        [sys.executable, "docker/requirements.py", *extras],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    expected = list(PROJECT["dependencies"])
    for extra in extras:
        expected += PROJECT["optional-dependencies"][extra]
    assert printed == expected


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers ``/health/ready`` with the server's ``status`` attribute."""

    def do_GET(self) -> None:
        status = self.server.status if self.path == "/health/ready" else 404  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_health_check_follows_readiness(answers: http.server.HTTPServer) -> None:
    (health,) = arguments(ROOT / "docker" / "service.Dockerfile", "HEALTHCHECK")
    port = f":{answers.server_address[1]}/"
    command = [sys.executable, *json.loads(health.split("CMD ")[1].replace(":8000/", port))[1:]]
    codes = []
    for status in (200, 503):
        answers.status = status  # type: ignore[attr-defined]
        codes.append(subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode)
    assert codes == [0, 1]
