from __future__ import annotations

import json
import os
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
    pairs = [volume.rpartition(":") for volume in COMPOSE["services"][service]["volumes"]]
    found = {}
    for source, _, target in pairs:
        if target == "ro":
            source, _, target = source.rpartition(":")
        found[target] = source
    return found


def test_both_files_build_from_dockerfiles_that_exist() -> None:
    for service in COMPOSE["services"].values():
        assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_gpu_file_extends_the_same_services() -> None:
    gpu = yaml.safe_load(FILES[1].read_text("utf-8"))
    assert gpu["services"].keys() == COMPOSE["services"].keys()


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


def test_the_service_is_given_settings_that_it_knows() -> None:
    names = COMPOSE["services"]["service"]["environment"]
    ours = {name for name in names if name.startswith("SNAC_")}
    assert ours
    assert {name.removeprefix("SNAC_").lower() for name in ours} <= Settings.model_fields.keys()


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
