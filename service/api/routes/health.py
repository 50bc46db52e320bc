"""Health probes and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from service.api.openapi import problems
from service.api.requests import CallDep, ServiceDep
from service.api.schemas import Health
from service.errors import EngineDeadError
from service.observability.merged_metrics import merge
from service.security import require_metrics_key

router = APIRouter(tags=["operation"])


@router.get(
    "/health/live",
    summary="Liveness probe",
    responses=problems(503),
    response_model_exclude_none=True,
)
async def live(service: ServiceDep) -> Health:
    """Return 200 while the engine thread is alive, even during loading; otherwise restart."""
    if service.lifecycle.failure is not None:
        service.lifecycle.check_started()
    if not service.engine.alive:
        raise EngineDeadError("the engine thread has ended")
    return Health(status="alive")


@router.get(
    "/health/ready",
    summary="Readiness probe",
    responses=problems(503),
    response_model_exclude_none=True,
)
async def ready(service: ServiceDep) -> Health:
    """Return 200 while requests are accepted: after a model is loaded and before stopping."""
    service.lifecycle.check_ready()
    if not service.ready:
        raise EngineDeadError("the engine thread has ended")
    return Health(status="ready", store=service.models.store_state)


@router.get(
    "/health/startup",
    summary="Startup probe",
    responses=problems(503),
    response_model_exclude_none=True,
)
async def startup(service: ServiceDep) -> Health:
    """Return 503 with the loading step until a model is loaded and warm; then 200."""
    service.lifecycle.check_started()
    return Health(status="started")


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    dependencies=[Depends(require_metrics_key)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(call: CallDep) -> Response:
    """Return all metrics in Prometheus text format, of all workers if there are several.

    One process answers in OpenMetrics, with the traces of slow requests as exemplars, where
    `Accept` asks for it.
    """
    service = call.service
    if service.worker is None:
        text, media_type = service.metrics.negotiated(call.request.headers.get("accept", ""))
        return Response(text, media_type=media_type)
    text = service.metrics.render()
    if call.from_outside:
        others = await service.worker.others_metrics()
        text = merge({service.worker.number: text.decode(), **others})
    return Response(text, media_type=CONTENT_TYPE_LATEST)
