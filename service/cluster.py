"""The service on Ray Serve: the same app as replicas, on as many machines as a Ray cluster has.

    serve run service.cluster:app
    serve run service.cluster:app max_replicas=8 num_gpus=0.5 queued_seconds=60

Needs the extra ``cluster``. `Settings` are read where the application is built, and travel to the
replicas. A stream is one connection to one replica, and stays there. Every replica follows the
model store by itself.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.observability import logs
from service.runtime.service import Service
from service.scaling import QUEUED_SECONDS, QueuedSecondsPolicy
from service.settings import Settings


class Arguments(BaseModel):
    """The arguments of ``serve run``.

    Parameters
    ----------
    min_replicas, max_replicas
        Bounds of the number of replicas.
    num_cpus, num_gpus
        Of one replica; several replicas may share a GPU.
    queued_seconds
        Target for the seconds of audio queued per replica; more add replicas.
    upscale_delay_s, downscale_delay_s
        Seconds for which there must be too few, or too many, replicas before their number changes.
    max_ongoing_requests
        Concurrent requests and streams of a replica; its own limits refuse more audio than fits.
    """

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=4, ge=1)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    queued_seconds: float = Field(default=60.0, gt=0)
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=120.0, ge=0)
    max_ongoing_requests: int = Field(default=256, ge=1)


class ReplicaHeader:
    """Name the replica in each answer, as ``X-Replica``.

    ``X-Request-Id`` is left to Serve's proxy, which makes it and adds it itself.
    """

    def __init__(self, app: ASGIApp, replica: str) -> None:
        self.app = app
        self.replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI)."""

        async def send_with_name(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                headers = MutableHeaders(scope=message)
                headers["X-Replica"] = self.replica
                del headers["X-Request-Id"]
            await send(message)

        await self.app(scope, receive, send_with_name)


class Replica:
    """One app; Serve hands it requests and WebSockets."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app, with a model: Serve sends requests from then on.

        Raises
        ------
        SnacError
            When no model can be loaded; the replica does not start.
        """
        logs.configure(self._settings.log_level, self._settings.log_format)
        app = create_app(self._settings)
        app.add_middleware(ReplicaHeader, replica=serve.get_replica_context().replica_id.unique_id)
        self._service: Service = app.state.service
        self._service.start()
        await asyncio.to_thread(self._service.lifecycle.join)
        if self._service.lifecycle.failure is not None:
            raise self._service.lifecycle.failure
        return app

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the metric of the autoscaling policy."""
        return {QUEUED_SECONDS: self._service.engine.queued_seconds}

    def check_health(self) -> None:
        """Raise RuntimeError if the replica must be replaced."""
        if self._service.engine.died:
            raise RuntimeError("the engine's thread has ended")


def app(given: dict[str, Any]) -> Application:
    """Return the application that ``serve run service.cluster:app`` runs.

    Parameters
    ----------
    given
        The fields of `Arguments`, as Serve hands them over.

    Raises
    ------
    ValidationError
        When an argument or a setting is wrong, or no keys are set while other machines may reach
        Serve's proxies; ``SNAC_PUBLISHED_HOST=127.0.0.1`` says that they cannot.
    """
    arguments = Arguments.model_validate(given)
    settings = Settings(host="0.0.0.0")
    scaling = AutoscalingConfig(
        min_replicas=arguments.min_replicas,
        max_replicas=arguments.max_replicas,
        upscale_delay_s=arguments.upscale_delay_s,
        downscale_delay_s=arguments.downscale_delay_s,
        policy=AutoscalingPolicy(
            policy_function=f"{QueuedSecondsPolicy.__module__}:{QueuedSecondsPolicy.__name__}",
            policy_kwargs={"queued_seconds": arguments.queued_seconds},
        ),
    )
    as_deployment = serve.deployment(
        name="snac",
        autoscaling_config=scaling,
        max_ongoing_requests=arguments.max_ongoing_requests,
        graceful_shutdown_timeout_s=settings.drain_timeout,
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
    )
    bound: Application = as_deployment(serve.ingress()(Replica)).bind(settings)
    return bound
