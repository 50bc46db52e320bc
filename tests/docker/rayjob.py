"""The fields of KubeRay's `RayJob`, ray.io/v1, that a chart may set; no registry has its schema.

After the operator's reference of its API, https://ray-project.github.io/kuberay/reference/api/. Pods are checked
against Kubernetes' own schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import kubernetes_validate
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

Count = Annotated[int, Field(ge=0, strict=True)]


def check_pod(template: dict[str, Any]) -> dict[str, Any]:
    """Raise unless this is the template of a pod."""
    assert template.keys() <= {"metadata", "spec"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, **template}
    kubernetes_validate.validate(pod, "1.34", strict=True)
    return template


class Strict(BaseModel):
    """Fields that are not listed are refused, and numbers are not text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Group(Strict):
    rayStartParams: dict[str, str]
    template: Annotated[dict[str, Any], AfterValidator(check_pod)]


class Head(Group):
    enableIngress: bool = False
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"


class Workers(Group):
    groupName: Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    replicas: Count = 0
    minReplicas: Count
    maxReplicas: Count
    numOfHosts: PositiveInt = 1
    idleTimeoutSeconds: Count | None = None


class Cluster(Strict):
    headGroupSpec: Head
    workerGroupSpecs: list[Workers] = []
    rayVersion: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    enableInTreeAutoscaling: bool = False


class Spec(Strict):
    entrypoint: Annotated[str, Field(min_length=1)]
    rayClusterSpec: Cluster
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: Count = 0
    activeDeadlineSeconds: PositiveInt | None = None
    backoffLimit: Count = 0
    runtimeEnvYAML: str = ""
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = (
        "K8sJobMode"
    )
    suspend: bool = False


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: dict[str, Any]
    spec: Spec
