"""The Helm chart, rendered by Helm's own engine and checked against Kubernetes' schemas."""

from __future__ import annotations

import argparse
import json
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bulk import cli as bulk
from service.settings import Settings
from tests.docker.rayjob import RayJob
from trainer import config as configuration

helm = pytest.importorskip("helm_python", reason="the extra chart is not installed")
kubernetes_validate = pytest.importorskip("kubernetes_validate")
monitoring = pytest.importorskip("cloudcoil.models.prometheus_operator.v1")

ROOT = Path(__file__).parents[2]
CHART = ROOT / "docker" / "chart"
FINETUNE = json.loads((ROOT / "docker" / "finetune.json").read_text("utf-8"))
OPEN: dict[str, Any] = {"keys": {"allowAnonymous": True}}
EVERYTHING: dict[str, Any] = {
    "keys": {"secret": "the-keys"},
    "imagePullSecrets": [{"name": "registry"}],
    "runtimeClassName": "nvidia",
    "nodeSelector": {"accelerator": "yes"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "gpus": 2,
    "settings": {"max_seconds": 600, "trusted_proxies": "10.0.0.0/8"},
    "env": {"OTEL_SERVICE_NAME": "codec"},
    "store": {"storageClass": "nfs"},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {"to": [{"ports": [{"port": 4318, "protocol": "TCP"}]}]},
    "training": {
        "enabled": True,
        "pods": 2,
        "gpusPerPod": 4,
        "processesPerPod": 4,
        "dataset": {"existingClaim": "dataset"},
        "runs": {"existingClaim": "runs"},
        "config": FINETUNE,
    },
    "bulk": {"enabled": True, "corpus": {"existingClaim": "corpus"}, "gpusPerWorker": 1},
}
INFO = 1
# Kinds of operators, of which Kubernetes has no schema.
FOREIGN = {"ServiceMonitor", "RayJob"}


def rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the objects by kind and name."""
    with helm.Chart.load(CHART) as chart:
        texts = chart.render(values, name="demo", namespace="speech")
    found = {}
    for name, text in texts.items():
        for one in yaml.safe_load_all(text) if name.endswith(".yaml") else ():
            if one is not None:
                found[f"{one['kind']} {one['metadata']['name']}"] = one
    return found


@pytest.fixture(scope="module")
def everything() -> dict[str, dict[str, Any]]:
    return rendered(EVERYTHING)


def pods(objects: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in objects.values():
        if one["kind"] in ("Deployment", "Job"):
            yield one["spec"]["template"]["spec"]


def variables(objects: dict[str, dict[str, Any]]) -> dict[str, str]:
    (container,) = objects["Deployment demo-snac-tokenizer"]["spec"]["template"]["spec"][
        "containers"
    ]
    return {one["name"]: one["value"] for one in container["env"]}


def test_lint_has_nothing_to_say() -> None:
    found = helm.lint(CHART, OPEN)
    assert found["total_charts_linted"] == 1
    assert not [one for one in found["messages"] if one["severity"] > INFO]


@pytest.mark.parametrize("release", ["1.29", "1.34"])
@pytest.mark.parametrize("values", [OPEN, EVERYTHING], ids=["least", "everything"])
def test_objects_are_valid(values: dict[str, Any], release: str) -> None:
    objects = rendered(values)
    for name, one in objects.items():
        if one["kind"] not in FOREIGN:
            kubernetes_validate.validate(one, release, strict=True)
        assert name.partition(" ")[2].startswith("demo-snac-tokenizer")
    kinds = {one["kind"] for one in objects.values()}
    least = {"Deployment", "Service", "PersistentVolumeClaim", "PodDisruptionBudget"}
    assert kinds >= least | {"NetworkPolicy"}
    if values is EVERYTHING:
        assert kinds >= {"HorizontalPodAutoscaler", "Job", "ConfigMap", *FOREIGN}


def test_it_is_open_only_if_that_is_said() -> None:
    with pytest.raises(helm.HelmError, match=r"keys\.allowAnonymous=true"):
        rendered({})
    assert variables(rendered(OPEN))["SNAC_ALLOW_ANONYMOUS"] == "true"


def test_the_service_starts_with_what_it_is_given(
    everything: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = variables(everything)
    assert given["OTEL_SERVICE_NAME"] == "codec"
    (tmp_path / "keys").write_text("a-key-of-the-secret\n")
    for name in ("SNAC_API_KEYS_FILE", "SNAC_ADMIN_KEYS_FILE"):
        assert given[name].startswith("/keys/")
        given[name] = str(tmp_path / "keys")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings(host="0.0.0.0")
    assert (settings.max_seconds, settings.trusted_proxies) == (600, ("10.0.0.0/8",))
    assert settings.devices == "all"
    (pod,) = [one for one in pods(everything) if "restartPolicy" not in one]
    drained = settings.drain_delay + settings.drain_timeout
    assert pod["terminationGracePeriodSeconds"] > drained


def test_the_trainer_accepts_its_configuration(
    everything: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    name = "demo-snac-tokenizer-finetune"
    (tmp_path / "config.json").write_text(everything[f"ConfigMap {name}"]["data"]["config.json"])
    job = everything[f"Job {name}"]["spec"]
    command = job["template"]["spec"]["containers"][0]["command"]
    overrides = [word.removeprefix("--set=") for word in command if word.startswith("--set=")]
    assert configuration.load(tmp_path / "config.json", overrides).publish_to == "/models"
    assert (job["completions"], job["parallelism"]) == (2, 2)
    assert "--nnodes=2" in command
    assert f"--rdzv-endpoint={name}-0.{name}:29500" in command


def test_pods_run_without_privileges_and_find_their_volumes(
    everything: dict[str, dict[str, Any]],
) -> None:
    found = list(pods(everything))
    assert len(found) == 2
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10001
        volumes = {one["name"] for one in pod["volumes"]}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {one["name"] for one in container["volumeMounts"]} == volumes


def test_services_budgets_and_policies_select_the_services_pods(
    everything: dict[str, dict[str, Any]],
) -> None:
    name = "demo-snac-tokenizer"
    template = everything[f"Deployment {name}"]["spec"]["template"]
    training = everything[f"Job {name}-finetune"]["spec"]["template"]
    selectors = [
        everything[f"Service {name}"]["spec"]["selector"],
        everything[f"PodDisruptionBudget {name}"]["spec"]["selector"]["matchLabels"],
        everything[f"NetworkPolicy {name}"]["spec"]["podSelector"]["matchLabels"],
        everything[f"Deployment {name}"]["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= template["metadata"]["labels"].items()
        assert not selector.items() <= training["metadata"]["labels"].items()
    monitor = everything[f"ServiceMonitor {name}"]["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= everything[f"Service {name}"]["metadata"]["labels"].items()


def test_the_monitor_is_one_that_prometheuss_operator_takes(
    everything: dict[str, dict[str, Any]],
) -> None:
    monitor = everything["ServiceMonitor demo-snac-tokenizer"]
    known = monitoring.ServiceMonitor.model_validate(monitor)
    # A field that the model does not know would not come back.
    assert known.model_dump(mode="json", by_alias=True, exclude_none=True) == monitor
    (endpoint,) = monitor["spec"]["endpoints"]
    ports = everything["Service demo-snac-tokenizer"]["spec"]["ports"]
    assert endpoint["port"] in {port["name"] for port in ports}


def test_the_corpus_job_is_one_that_kuberay_takes(
    everything: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = RayJob.model_validate(everything["RayJob demo-snac-tokenizer-bulk"])
    program, *words = shlex.split(job.spec.entrypoint)
    asked: list[argparse.Namespace] = []

    def encode(arguments: argparse.Namespace) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr(bulk, "encode", encode)
    assert (program, bulk.main(words)) == ("snac-bulk", 0)
    assert [(one.device, one.address) for one in asked] == [("cuda", "auto")]
    (workers,) = job.spec.ray_cluster_spec.worker_group_specs
    (container,) = workers.template["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == project["version"]
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    assert f"\nray=={values['bulk']['rayVersion']}\n" in pins
