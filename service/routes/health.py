"""Probes, metrics and the front door."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import RedirectResponse, Response

from service.errors import EngineDeadError, NotReadyError
from service.openapi import problems
from service.runtime import ServiceDep
from service.schemas import Health

router = APIRouter(tags=["operation"])


@router.get("/health/live", summary="Restart me?", responses=problems(503))
async def live(service: ServiceDep) -> Health:
    """Answer 200 while the engine thread lives; anything else calls for a restart."""
    if not service.engine.alive:
        raise EngineDeadError("the engine thread has ended")
    return Health(status="alive")


@router.get("/health/ready", summary="Send me requests?", responses=problems(503))
async def ready(service: ServiceDep) -> Health:
    """Answer 200 while requests are answered: not before a model is loaded, nor when stopping."""
    if not service.ready:
        why = "the service is stopping" if service.stopping else "there is no model or no engine"
        raise NotReadyError(why)
    return Health(status="ready")


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(service: ServiceDep) -> Response:
    """Print every metric in Prometheus text format."""
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """Lead a browser to the documentation."""
    return RedirectResponse("/docs")
