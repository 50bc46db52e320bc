"""`WS /v1/stream/decode` and `/v1/stream/encode`: see docs/streaming.md."""

from __future__ import annotations

from fastapi import APIRouter, Request, WebSocket
from starlette.responses import JSONResponse

from service.websocket.asyncapi import asyncapi_document
from service.websocket.decode import DecodeSession
from service.websocket.encode import EncodeSession
from service.websocket.session import serve

router = APIRouter(tags=["stream"])


@router.websocket("/v1/stream/decode")
async def stream_decode(websocket: WebSocket) -> None:
    """Tokens in, in any layout and chunking; PCM out as soon as it can be computed."""
    await serve(websocket, DecodeSession)


@router.websocket("/v1/stream/encode")
async def stream_encode(websocket: WebSocket) -> None:
    """PCM in, at any rate and chunking; codes out, frame by frame."""
    await serve(websocket, EncodeSession)


@router.get("/asyncapi.json", include_in_schema=False)
async def asyncapi(request: Request) -> JSONResponse:
    """Describe the messages of both calls as an AsyncAPI document."""
    return JSONResponse(asyncapi_document(request.app.version))
