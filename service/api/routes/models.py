"""`/v1/models`: which versions there are, which one answers, and exchanging it."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from service.api.openapi import problems
from service.api.requests import ServiceDep, from_outside
from service.api.schemas import CurrentModel, ModelList, ModelVersion
from service.models.manager import ModelManager
from service.runtime.service import Service
from service.security import require_admin_key, require_key
from snac_core.codec import Codec

router = APIRouter(prefix="/v1/models", tags=["models"])

_reading = [Depends(require_key)]
_operating = [Depends(require_admin_key)]
_reload_problems = problems(
    401,
    403,
    409,
    422,
    500,
    503,
    status_409="The version was not taken; the old model still serves.",
)
AllowChange = Annotated[
    bool, Query(description="Serve a version whose codes mean something else, this once.")
]


@router.get(
    "", summary="Known versions", dependencies=_reading, responses=problems(401, 429, 500, 503)
)
async def models(service: ServiceDep) -> ModelList:
    """List the model store's versions, with the reason for each that could not be served."""
    states = await asyncio.to_thread(service.models.describe)
    return ModelList(
        models=[ModelVersion.model_validate(dataclasses.asdict(state)) for state in states]
    )


@router.get(
    "/current",
    summary="The model that answers",
    dependencies=_reading,
    responses=problems(401, 429, 500, 503),
)
async def current(request: Request, service: ServiceDep) -> CurrentModel:
    """Say which model answers now, and the shape of its codes."""
    request.state.model = service.models.codec
    return _current(service.models, request.state.model)


@router.post(
    "/reload",
    summary="Look at the store now",
    dependencies=_operating,
    responses=_reload_problems,
)
async def reload(
    request: Request, service: ServiceDep, allow_token_space_change: AllowChange = False
) -> CurrentModel:
    """Serve the store's current version, trying again even one that failed before."""
    request.state.model = await service.models.run_in_loader(
        service.models.check, retry=True, allow_token_space_change=allow_token_space_change
    )
    await _tell_others(request, service)
    return _current(service.models, request.state.model)


@router.post(
    "/rollback",
    summary="Return to the previous version",
    dependencies=_operating,
    responses=_reload_problems,
)
async def rollback(
    request: Request, service: ServiceDep, allow_token_space_change: AllowChange = False
) -> CurrentModel:
    """Serve the store's previous version and make it current there, for every service."""
    request.state.model = await service.models.run_in_loader(
        service.models.roll_back, allow_token_space_change=allow_token_space_change
    )
    await _tell_others(request, service)
    return _current(service.models, request.state.model)


async def _tell_others(request: Request, service: Service) -> None:
    if service.worker is not None and from_outside(request):
        key = request.headers.get("x-admin-key")
        await service.worker.reload_others(request.url.query, key)


def _current(manager: ModelManager, codec: Codec) -> CurrentModel:
    config = codec.config
    return CurrentModel(
        version=codec.version,
        token_space=codec.token_space,
        served_since=manager.served_since,
        device=str(codec.device),
        precision=codec.precision,
        sample_rate=codec.sample_rate,
        frame_samples=config.frame_samples,
        codes_per_frame=list(config.codes_per_frame),
        codebook_size=config.codebook_size,
        tokens_per_second=config.tokens_per_second,
        bits_per_second=config.bits_per_second,
    )
