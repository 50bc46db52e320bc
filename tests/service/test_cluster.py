"""What Ray Serve is told; `make clusters` runs it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from service.scaling import QUEUED_SECONDS, QueuedSecondsPolicy


def context(*queued: float) -> Any:
    """What Serve tells a policy: each replica's queue, and the bounds."""
    metrics = {QUEUED_SECONDS: {f"replica-{n}": seconds for n, seconds in enumerate(queued)}}
    return SimpleNamespace(
        aggregated_metrics=metrics,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
    )


@pytest.mark.parametrize(
    ("queued", "replicas"),
    [((), 1), ((0.0, 0.0), 1), ((60.0,), 1), ((61.0,), 2), ((100.0, 80.0), 3), ((3600.0,), 4)],
)
def test_replicas_follow_the_queued_audio_and_not_the_requests(
    queued: tuple[float, ...], replicas: int
) -> None:
    assert QueuedSecondsPolicy(60.0)(context(*queued)) == (replicas, {})


def test_the_application_takes_what_serve_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.serve", reason="the extra cluster is not installed")
    from service.cluster import app

    with pytest.raises(ValidationError, match="SNAC_ALLOW_ANONYMOUS"):
        app({})
    monkeypatch.setenv("SNAC_API_KEY", "a-key-of-sixteen-characters")
    monkeypatch.setenv("SNAC_DRAIN_TIMEOUT", "70")
    # The command hands over strings, a configuration file numbers.
    made: Any = app({"max_replicas": "8", "num_gpus": 0.5, "queued_seconds": "30"})
    deployment = made._bound_deployment
    config = deployment._deployment_config
    assert config.autoscaling_config.max_replicas == 8
    assert config.autoscaling_config.policy.policy_kwargs == {"queued_seconds": 30}
    assert config.graceful_shutdown_timeout_s == 70
    assert deployment.ray_actor_options["num_gpus"] == 0.5
    with pytest.raises(ValidationError, match="replicas"):
        app({"replicas": 2})
