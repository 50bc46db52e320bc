"""The page at `/`, the documentation at `/docs` and `/docs/streams`, and the files they load."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from service.api.content_negotiation import JSON, negotiate
from service.api.requests import CallDep, ServiceDep
from snac_core.audio.media import available as reads_browser_recordings

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[2] / "page"

HTML = "text/html"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self' data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content Security Policy of the pages: everything comes from this service, nothing is inline."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    # Pages and their files are one version: a browser asks whether it still has the right ones.
    "Cache-Control": "no-cache",
    "Vary": "Accept",
}


class PageFiles(StaticFiles):
    """The files of `service/page`, which browsers revalidate at each use."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    def file_response(
        self, full_path: str | os.PathLike[str], *args: Any, **options: Any
    ) -> Response:
        """Return a file, or 304 if the browser has it."""
        answer = super().file_response(full_path, *args, **options)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


@router.get("/")
async def root(call: CallDep) -> Response:
    """Return the page, or a list of endpoints to clients that prefer JSON."""
    if negotiate(call.accept, (HTML, JSON)) == HTML:
        return _page("index.html")
    links = {
        "openapi": "openapi.json",
        "asyncapi": "asyncapi.json",
        "documentation": "docs",
        "models": "v1/models",
        "ready": "health/ready",
    }
    body = {"name": "SNAC tokenizer", "version": version("snac-tokenizer"), "links": links}
    return JSONResponse(body, headers={"Vary": "Accept"})


@router.get("/docs")
async def docs() -> Response:
    """Show the HTTP API's documentation."""
    return _page("docs.html")


@router.get("/docs/streams")
async def streams() -> Response:
    """Show the WebSocket protocol's documentation."""
    return _page("streams.html")


@router.get("/page/service.json")
async def about(service: ServiceDep) -> JSONResponse:
    """Return what the page has to know of the service before its first call."""
    settings = service.settings
    body = {
        "version": version("snac-tokenizer"),
        "reads_browser_recordings": reads_browser_recordings(),
        "max_seconds": settings.max_seconds,
        "max_body_bytes": settings.max_body_bytes,
        "api_key": bool(settings.api_keyring),
        "admin_key": bool(settings.admin_keyring),
    }
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


def _page(name: str) -> FileResponse:
    return FileResponse(FOLDER / name, media_type=HTML, headers=_HEADERS)
