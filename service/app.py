"""The HTTP application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import Depends, FastAPI

from service import errors
from service.middleware import RequestContext
from service.routes import decode, encode, health, models
from service.runtime import Service
from service.security import BodyLimit, require_key
from service.settings import Settings

_DESCRIPTION = """\
Speech to hierarchical SNAC tokens and back.

Every error is an `application/problem+json` object (RFC 9457). Every answer carries
`X-Request-Id`, and one that a model had part in `X-Model-Version` and `X-Token-Space`.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return an app of its own: models, engine, threads and metrics.

    Parameters
    ----------
    settings
        None reads the environment.

    Returns
    -------
    The app; its ``state.service`` is the `Service`, started with the app unless before.
    """
    service = Service(settings or Settings())
    app = FastAPI(
        title="SNAC tokenizer",
        description=_DESCRIPTION,
        version=version("snac-tokenizer"),
        lifespan=_lifespan,
        redoc_url=None,
    )
    app.state.service = service
    errors.install(app)
    app.include_router(encode.router, dependencies=[Depends(require_key)])
    app.include_router(decode.router, dependencies=[Depends(require_key)])
    app.include_router(models.router)
    app.include_router(health.router)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, max_bytes=service.settings.max_body_bytes)
    app.add_middleware(RequestContext, metrics=service.metrics)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await asyncio.to_thread(service.start)
    watch = asyncio.create_task(service.models.watch())
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.to_thread(service.close)
