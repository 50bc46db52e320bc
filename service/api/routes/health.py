"""Probes, metrics and the front door."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import HTMLResponse, RedirectResponse, Response

from service.api.docs_page import documentation_page
from service.api.openapi import problems
from service.api.requests import ServiceDep, from_outside
from service.api.schemas import Health
from service.errors import EngineDeadError
from service.observability.merged_metrics import merge

router = APIRouter(tags=["operation"])


@router.get("/health/live", summary="Restart me?", responses=problems(503))
async def live(service: ServiceDep) -> Health:
    """Answer 200 while the engine thread lives, loading or not; anything else needs a restart."""
    if service.lifecycle.failure is not None:
        service.lifecycle.check_started()
    if not service.engine.alive:
        raise EngineDeadError("the engine thread has ended")
    return Health(status="alive")


@router.get("/health/ready", summary="Send me requests?", responses=problems(503))
async def ready(service: ServiceDep) -> Health:
    """Answer 200 while requests are answered: not before a model is loaded, nor when stopping."""
    service.lifecycle.check_ready()
    if not service.ready:
        raise EngineDeadError("the engine thread has ended")
    return Health(status="ready")


@router.get("/health/startup", summary="Have you started?", responses=problems(503))
async def startup(service: ServiceDep) -> Health:
    """Answer 503, saying how far it has come, until a model is loaded and warm; then 200."""
    service.lifecycle.check_started()
    return Health(status="started")


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, service: ServiceDep) -> Response:
    """Print every metric in Prometheus text format, of all workers if there are several."""
    text = service.metrics.render()
    if service.worker is not None and from_outside(request):
        others = await service.worker.others_metrics()
        text = merge({service.worker.number: text.decode(), **others})
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Show the OpenAPI document to a browser."""
    return documentation_page(request.app)


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """Lead a browser to the documentation."""
    return RedirectResponse("/docs")
