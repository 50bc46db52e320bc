"""The HTTP application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import Depends, FastAPI

from service import problems
from service.api.examples import DocumentedApp
from service.api.methods import MethodMiddleware
from service.api.parameters import refuse_unknown_query
from service.api.request_context import RequestContext
from service.api.requests import set_deadline
from service.api.root_path import RootPathMiddleware
from service.api.routes import decode, encode, health, models, page, reconstruct
from service.limits.body import BodyLimit
from service.limits.content_encoding import ContentEncodingMiddleware
from service.limits.memory import MemoryLimit
from service.limits.slow_body import BodyTimeoutMiddleware
from service.observability.tracing import tracing
from service.runtime.service import Service
from service.security import allow_origins, require_key
from service.settings import Settings
from service.websocket import routes as websocket

_DESCRIPTION = """\
Speech to hierarchical SNAC tokens and back.

Every error is an `application/problem+json` object (RFC 9457). Every response carries
`X-Request-Id`; if a model was used, it also carries `X-Model-Version` and `X-Token-Space`.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return a new app with its own models, engine, threads and metrics.

    Parameters
    ----------
    settings
        None reads them from the environment.

    Returns
    -------
    The app; its ``state.service`` is the `Service`, which loads a model when the app starts.
    """
    service = Service(settings or Settings())
    app = DocumentedApp(
        title="SNAC tokenizer",
        description=_DESCRIPTION,
        version=version("snac-tokenizer"),
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        # They would lead where the client's own Host header says.
        redirect_slashes=False,
    )
    app.state.service = service
    problems.install(app)
    known = Depends(refuse_unknown_query)
    computing = [Depends(require_key), known, Depends(set_deadline)]
    app.include_router(encode.router, dependencies=computing)
    app.include_router(decode.router, dependencies=computing)
    app.include_router(reconstruct.router, dependencies=computing)
    app.include_router(websocket.router)
    app.include_router(models.router, dependencies=[known])
    app.include_router(health.router)
    app.include_router(page.router)
    app.mount("/page", page.PageFiles())
    # The middleware added last is the outermost.
    limits = service.settings
    app.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes)
    app.add_middleware(MemoryLimit, budget=service.memory)
    app.add_middleware(ContentEncodingMiddleware, max_bytes=limits.max_body_bytes)
    app.add_middleware(BodyTimeoutMiddleware, timeout=limits.body_timeout, min_rate=limits.min_rate)
    app.add_middleware(RequestContext, metrics=service.metrics)
    app.add_middleware(MethodMiddleware)
    allow_origins(app, limits)
    app.add_middleware(RootPathMiddleware, root_path=limits.root_path)
    service.tracing = tracing(app, limits)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.start()
    watch = asyncio.create_task(service.models.watch())
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.to_thread(service.close)
