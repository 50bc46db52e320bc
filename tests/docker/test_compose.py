from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from trainer import config as configuration

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "docker-compose.yml", ROOT / "docker" / "compose.gpu.yml"]
COMPOSE = yaml.safe_load(FILES[0].read_text("utf-8"))


def have_compose() -> bool:
    """Whether the docker client is here, with its compose plugin; no daemon is needed."""
    if shutil.which("docker") is None:
        return False
    version = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return version.returncode == 0


needs_compose = pytest.mark.skipif(not have_compose(), reason="no docker client with compose")


def resolved(*options: str, **environment: str) -> dict[str, Any]:
    """Return what compose makes of the files, or fail with its message."""
    done = subprocess.run(
        ["docker", "compose", *options, "config", "--format", "json"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def mounts(service: str) -> dict[str, str]:
    """Return target -> source of a service's volumes, as written."""
    found = {}
    for volume in COMPOSE["services"][service]["volumes"]:
        if isinstance(volume, str):
            source, _, target = volume.partition(":")
        else:
            source, target = volume["source"], volume["target"]
        found[target] = source
    return found


BUILT = {name: one for name, one in COMPOSE["services"].items() if "build" in one}
FIXED = {"host", "port", "published_host", "published_port", "model_store"}
"""Settings that the image or the compose file decides."""


def settable() -> dict[str, str]:
    """Return a value for every variable of the service that a user may set."""
    names = sorted(Settings.model_fields.keys() - FIXED)
    return {f"SNAC_{name.upper()}": f"value-{number}" for number, name in enumerate(names)}


def test_images_are_built_from_dockerfiles_that_exist_and_never_pulled() -> None:
    assert BUILT.keys() >= {"service", "trainer", "prepare"}
    for service in BUILT.values():
        assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["pull_policy"] == "build"


def test_images_of_others_are_of_one_release() -> None:
    images = {one["image"] for name, one in COMPOSE["services"].items() if name not in BUILT}
    assert len(images) == 2
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+$", image), image


def test_the_gpu_file_extends_the_services_that_compute() -> None:
    gpu = yaml.safe_load(FILES[1].read_text("utf-8"))
    assert gpu["services"].keys() == {"service", "trainer"}


def test_no_mount_makes_a_folder_of_the_host() -> None:
    for name, service in COMPOSE["services"].items():
        for volume in service["volumes"]:
            if isinstance(volume, str):
                assert volume.partition(":")[0] in COMPOSE["volumes"], f"{name}: {volume}"
            elif volume["type"] == "bind":
                assert volume["bind"] == {"create_host_path": False}, f"{name}: {volume}"


def test_the_trainer_publishes_into_the_store_that_the_service_watches() -> None:
    assert mounts("trainer")["/models"] == mounts("service")["/models"] == "models"
    assert COMPOSE["services"]["service"]["environment"]["SNAC_MODEL_STORE"] == "/models"
    assert "models" in COMPOSE["volumes"]


def test_the_trainer_is_given_a_configuration_that_it_accepts() -> None:
    command = COMPOSE["services"]["trainer"]["command"]
    overrides = [word.removeprefix("--set=") for word in command if word.startswith("--set=")]
    config = configuration.load(ROOT / "docker" / "finetune.json", overrides)
    assert config.publish_to == "/models"
    assert Path(config.output_dir).parent == Path("/runs")
    # A second start goes on with the run.
    assert "--resume=auto" in command
    # The service goes over to what comes out only if codes keep their meaning.
    assert not config.quantizer_trains


def test_every_setting_is_named_for_the_service() -> None:
    names = COMPOSE["services"]["service"]["environment"]
    ours = {name for name in names if name.startswith("SNAC_")}
    expected = {f"SNAC_{name.upper()}" for name in Settings.model_fields.keys() - {"host", "port"}}
    assert ours == expected, "docker-compose.yml names every setting of docs/settings.md"


@needs_compose
def test_every_setting_arrives_from_the_shell() -> None:
    values = settable()
    assert resolved(**values)["services"]["service"]["environment"].items() >= values.items()


@needs_compose
def test_every_setting_arrives_from_a_file_and_opentelemetry_from_dot_env(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    values, traces = settable(), {"OTEL_SERVICE_NAME": "codec"}
    lines = [f"{name}={value}\n" for name, value in {**values, **traces}.items()]
    (tmp_path / ".env").write_text("".join(lines))
    copied = ["--project-directory", str(tmp_path), "--file", str(FILES[0])]
    arrived = resolved(*copied)["services"]["service"]["environment"]
    assert arrived.items() >= {**values, **traces}.items()
    (tmp_path / ".env").rename(tmp_path / "production.env")
    options = ["--env-file", str(tmp_path / "production.env")]
    arrived = resolved(*options, *copied)["services"]["service"]["environment"]
    assert arrived.items() >= values.items()


@needs_compose
@pytest.mark.parametrize("bind", ["127.0.0.1", "[::1]"])
def test_the_service_knows_where_it_is_published(
    bind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = resolved(BIND=bind, PORT="9123")["services"]["service"]
    for name in ("SNAC_PUBLISHED_HOST", "SNAC_PUBLISHED_PORT"):
        monkeypatch.setenv(name, service["environment"][name])
    settings = Settings(host="0.0.0.0")
    assert (settings.address, settings.published_port) == (bind.strip("[]"), 9123)
    assert settings.on_loopback
    (port,) = service["ports"]
    assert (port["host_ip"], port["published"]) == (bind.strip("[]"), "9123")


@needs_compose
def test_threads_wait_asleep_in_every_container(tmp_path: Path) -> None:
    every = ["--profile", "train", "--profile", "prepare"]
    services = resolved(*every, DATASET=str(tmp_path), RECORDINGS=str(tmp_path))["services"]
    waits = {services[name]["environment"]["OMP_WAIT_POLICY"] for name in BUILT}
    assert waits == {"PASSIVE"}


def test_named_volumes_are_declared() -> None:
    for service in COMPOSE["services"]:
        named = {source for source in mounts(service).values() if source.isalnum()}
        assert named <= COMPOSE["volumes"].keys()


@needs_compose
def test_up_starts_the_service_alone_on_port_8000() -> None:
    services = resolved()["services"]
    assert services.keys() == {"service"}
    (port,) = services["service"]["ports"]
    assert (port["published"], port["target"]) == ("8000", 8000)


@needs_compose
def test_profile_train_adds_the_trainer_with_its_dataset_read_only(tmp_path: Path) -> None:
    services = resolved("--profile", "train", DATASET=str(tmp_path))["services"]
    assert services.keys() == {"service", "trainer"}
    (data,) = [one for one in services["trainer"]["volumes"] if one["target"] == "/data"]
    assert (data["source"], data["read_only"]) == (str(tmp_path), True)


@needs_compose
@pytest.mark.parametrize("profiles", [[], ["--profile", "train"]])
def test_the_gpu_file_reserves_gpus_and_takes_the_ordinary_torch(profiles: list[str]) -> None:
    files = [option for file in FILES for option in ("--file", str(file))]
    for service in resolved(*files, *profiles, TORCH_INDEX="")["services"].values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert service["build"]["args"]["TORCH_INDEX"] == ""
