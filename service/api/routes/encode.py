"""`POST /v1/encode` and `/v1/encode/batch`: audio in, codes out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgpack
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.content_negotiation import JSON, MSGPACK, NDJSON, NPZ, negotiate
from service.api.ndjson import Item, NdjsonItem, NdjsonResponse
from service.api.openapi import AUDIO_BODY, AUDIO_FILES_BODY, COMPUTING, binary, problems
from service.api.requests import ServiceDep
from service.api.schemas import EncodeAnswer, EncodeBatchAnswer
from service.api.uploads import Upload, read_audio, read_uploads
from service.errors import InvalidRequestError
from service.fields import Base, LayoutName
from service.limits.body import check_count
from service.runtime.service import Service
from snac_core.codec import Codec
from snac_core.codes import UINT16_CODES, Codes
from snac_core.layouts import Layout, find_layout, to_layout

router = APIRouter(tags=["encode"])


@router.post(
    "/v1/encode",
    summary="Audio to codes",
    responses={
        200: {"model": EncodeAnswer, "content": binary(NPZ, MSGPACK), "description": "The codes."},
        **problems(*COMPUTING),
    },
    openapi_extra=AUDIO_BODY,
)
async def encode(
    request: Request,
    service: ServiceDep,
    layout: LayoutName = "hierarchical",
    base: Base = None,
) -> Response:
    """Encode one audio file, sent as the whole body or as the multipart part `file`.

    Any format that libsndfile reads (WAV, FLAC, Ogg Vorbis and Opus, MP3, ...), at any
    sample rate and with any number of channels.
    """
    media = negotiate(request.headers.get("accept"), (JSON, NPZ, MSGPACK))
    codec = service.admit(request)
    wanted = _usable_layout(codec, layout, base)
    if media == NPZ and wanted.name != "hierarchical":
        raise InvalidRequestError(f"npz carries the layout hierarchical only, not {wanted.name}")
    upload = await service.in_time(request, read_audio(request))

    async def answer() -> bytes:
        _, codes = await service.encode(request, codec, upload)
        with service.stage(request, "write"):
            return await service.io.run(_serialise, codec, codes, wanted, base, media)

    return Response(await service.run_until_disconnect(request, answer()), media_type=media)


@router.post(
    "/v1/encode/batch",
    summary="Many audio files to codes",
    responses={
        200: {
            "model": EncodeBatchAnswer,
            "content": binary(NDJSON),
            "description": "A result or a problem for each file. As NDJSON, one line each, as "
            "they are finished.",
        },
        **problems(*COMPUTING),
    },
    openapi_extra=AUDIO_FILES_BODY,
)
async def encode_batch(
    request: Request,
    service: ServiceDep,
    layout: LayoutName = "hierarchical",
    base: Base = None,
) -> Response:
    """Encode the files in the multipart parts `files`; one that fails does not fail the rest."""
    media = negotiate(request.headers.get("accept"), (JSON, NDJSON))
    codec = service.admit(request)
    wanted = _usable_layout(codec, layout, base)
    most = service.settings.max_files
    uploads = await service.in_time(request, read_uploads(request, "files", most))
    check_count(len(uploads), most, "files in parts named 'files'")

    def items() -> list[Item]:
        return [
            _item(service, request, codec, index, upload, wanted, base)
            for index, upload in enumerate(uploads)
        ]

    async def answer() -> bytes:
        lines = await asyncio.gather(*items())
        return b'{"results":[' + b",".join(line.data for line in lines) + b"]}"

    if media == NDJSON:
        return NdjsonResponse(request, items)
    return Response(
        await service.run_until_disconnect(request, answer(), deadline=False), media_type=JSON
    )


def _usable_layout(codec: Codec, name: str, base: int | None) -> Layout:
    """Find a layout, and try it on one frame rather than fail after the work."""
    layout = find_layout(name)
    frame = [[0] * count for count in codec.config.codes_per_frame]
    to_layout(frame, layout.name, config=codec.config, base=base)
    return layout


async def _item(
    service: Service,
    request: Request,
    codec: Codec,
    index: int,
    upload: Upload,
    layout: Layout,
    base: int | None,
) -> NdjsonItem:
    named = {"index": index, "name": upload.name}

    def write(codes: Codes) -> bytes:
        return _dump({**named, "result": _answer(codec, codes, layout, base)})

    async def answer() -> NdjsonItem:
        _, codes = await service.encode(request, codec, upload)
        with service.stage(request, "write"):
            line = await service.io.run(write, codes)
        request.state.reservation.grow(len(line))
        return NdjsonItem(line, held=len(line))

    made = await service.item(request, answer())
    return made if isinstance(made, NdjsonItem) else NdjsonItem(_dump({**named, **made}))


def _answer(codec: Codec, codes: Codes, layout: Layout, base: int | None) -> dict[str, Any]:
    return {
        "layout": layout.versioned,
        "base": layout.default_base if base is None else base,
        "codes": to_layout(codes.levels, layout.name, config=codec.config, base=base),
        "num_samples": codes.num_samples,
        "sample_rate": codes.sample_rate,
        "duration": codes.duration,
        "model": {"version": codec.version, "token_space": codec.token_space},
    }


def _serialise(codec: Codec, codes: Codes, layout: Layout, base: int | None, media: str) -> bytes:
    if media == NPZ:
        return codes.to_npz()
    answer = _answer(codec, codes, layout, base)
    if media == JSON:
        return _dump(answer)
    if layout.name == "hierarchical" and codec.config.codebook_size <= UINT16_CODES:
        answer["codes"] = [level.astype("<u2").tobytes() for level in codes.levels]
    return bytes(msgpack.packb(answer))


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
