"""`/v1/models`: list versions, describe the current one, reload and roll back."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.api.openapi import problems
from service.api.requests import Call, CallDep, ServiceDep
from service.api.schemas import CurrentModel, ModelList, ModelVersion
from service.models.manager import ModelManager
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
    status_409="The version was not loaded; the old model still serves.",
)
AllowChange = Annotated[bool, Query(description="Accept another token space, this once.")]


@router.get(
    "", summary="Known versions", dependencies=_reading, responses=problems(401, 429, 500, 503)
)
async def models(service: ServiceDep) -> ModelList:
    """List the model store's versions, with the reason for each that cannot be served."""
    states = await asyncio.to_thread(service.models.describe)
    return ModelList(
        models=[ModelVersion.model_validate(dataclasses.asdict(state)) for state in states]
    )


@router.get(
    "/current",
    summary="The model being served",
    dependencies=_reading,
    responses=problems(401, 429, 500, 503),
)
async def current(call: CallDep) -> CurrentModel:
    """Describe the model being served and the shape of its codes."""
    manager = call.service.models
    return _current(manager, call.use(manager.codec))


@router.post(
    "/reload",
    summary="Check the store now",
    dependencies=_operating,
    responses=_reload_problems,
)
async def reload(call: CallDep, allow_token_space_change: AllowChange = False) -> CurrentModel:
    """Serve the store's current version; retries one that failed before."""
    manager = call.service.models
    codec = await manager.run_in_loader(
        manager.check, retry=True, allow_token_space_change=allow_token_space_change
    )
    return await _everywhere(call, codec)


@router.post(
    "/rollback",
    summary="Return to the previous version",
    dependencies=_operating,
    responses=_reload_problems,
)
async def rollback(call: CallDep, allow_token_space_change: AllowChange = False) -> CurrentModel:
    """Serve the store's previous version and make it current in the store."""
    manager = call.service.models
    codec = await manager.run_in_loader(
        manager.roll_back, allow_token_space_change=allow_token_space_change
    )
    return await _everywhere(call, codec)


async def _everywhere(call: Call, codec: Codec) -> CurrentModel:
    """Make the other workers reload too, and describe the model that all serve now."""
    call.use(codec)
    worker, request = call.service.worker, call.request
    if worker is not None and call.from_outside:
        await worker.reload_others(request.url.query, request.headers.get("x-admin-key"))
    return _current(call.service.models, codec)


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
