"""The fields of KubeRay's `RayJob`, ray.io/v1, that a chart may set; no registry has its schema.

After the reference of its API, https://ray-project.github.io/kuberay/reference/api/. Pods are
checked against Kubernetes' own schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import kubernetes_validate
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt
from pydantic.alias_generators import to_camel

Count = Annotated[int, Field(ge=0)]


def check_pod(template: dict[str, Any]) -> dict[str, Any]:
    """Raise unless this is the template of a pod."""
    assert template.keys() <= {"metadata", "spec"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, **template}
    kubernetes_validate.validate(pod, "1.34", strict=True)
    return template


class Strict(BaseModel):
    """Fields that are not listed are refused, and numbers are not text."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Group(Strict):
    ray_start_params: dict[str, str]
    template: Annotated[dict[str, Any], AfterValidator(check_pod)]


class Head(Group):
    enable_ingress: bool = False
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"


class Workers(Group):
    group_name: Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    replicas: Count = 0
    min_replicas: Count
    max_replicas: Count
    num_of_hosts: PositiveInt = 1
    idle_timeout_seconds: Count | None = None


class Cluster(Strict):
    head_group_spec: Head
    worker_group_specs: list[Workers] = []
    ray_version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    enable_in_tree_autoscaling: bool = False


class Spec(Strict):
    entrypoint: Annotated[str, Field(min_length=1)]
    ray_cluster_spec: Cluster
    shutdown_after_job_finishes: bool = False
    ttl_seconds_after_finished: Count = 0
    active_deadline_seconds: PositiveInt | None = None
    backoff_limit: Count = 0
    submission_mode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode"] = "K8sJobMode"
    suspend: bool = False


class RayJob(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: dict[str, Any]
    spec: Spec
