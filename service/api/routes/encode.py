"""`POST /v1/encode` and `/v1/encode/batch`: audio in, codes out."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import msgpack
from fastapi import APIRouter, Query
from starlette.responses import Response

from service.api import pipeline
from service.api.content_negotiation import JSON, MSGPACK, NDJSON, NPZ, negotiate
from service.api.ndjson import Item, NdjsonItem, NdjsonResponse
from service.api.openapi import AUDIO_BODY, AUDIO_FILES_BODY, COMPUTING, binary, problems
from service.api.requests import Call, CallDep
from service.api.schemas import EncodeAnswer, EncodeBatchAnswer, EncodeOptions
from service.api.uploads import Upload, read_audio, read_uploads, warning_headers
from service.errors import InvalidRequestError
from service.limits.body import check_count
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
async def encode(call: CallDep, query: Annotated[EncodeOptions, Query()]) -> Response:
    """Encode one audio file, sent as the whole body or as the multipart part `file`.

    Any format that libsndfile reads (WAV, FLAC, Ogg Vorbis and Opus, MP3, ...), at any
    sample rate and with any number of channels; raw samples if the content type says how.
    Form fields are read as the query parameters are.
    """
    media = negotiate(call.accept, (JSON, NPZ, MSGPACK))
    _check_layout(call.admit(), query, media)
    upload, options = await call.before_deadline(read_audio(call.request, query))
    wanted = _check_layout(call.codec, options, media)

    async def answer() -> bytes:
        _, codes = await pipeline.encode(call, upload)
        with call.stage("write"):
            return await call.service.io.run(
                _serialise, call, upload, codes, wanted, options.base, media
            )

    body = await call.run_until_disconnect(answer())
    return Response(body, media_type=media, headers=warning_headers(upload))


@router.post(
    "/v1/encode/batch",
    summary="Many audio files to codes",
    responses={
        200: {
            "model": EncodeBatchAnswer,
            "content": binary(NDJSON),
            "description": "A result or a problem for each file. As NDJSON, one line each, sent as "
            "they finish.",
        },
        **problems(*COMPUTING),
    },
    openapi_extra=AUDIO_FILES_BODY,
)
async def encode_batch(call: CallDep, query: Annotated[EncodeOptions, Query()]) -> Response:
    """Encode the files in the multipart parts `files`; a failed one does not affect the others."""
    media = negotiate(call.accept, (JSON, NDJSON))
    _check_layout(call.admit(), query)
    most = call.service.settings.max_files
    uploads, options = await call.before_deadline(read_uploads(call.request, query, most))
    wanted, base = _check_layout(call.codec, options), options.base
    check_count(len(uploads), most, "files in parts named 'files'")

    def items() -> list[Item]:
        return [_item(call, index, upload, wanted, base) for index, upload in enumerate(uploads)]

    async def answer() -> bytes:
        lines = await asyncio.gather(*items())
        return b'{"results":[' + b",".join(line.data for line in lines) + b"]}"

    if media == NDJSON:
        return NdjsonResponse(call, items)
    return Response(await call.run_until_disconnect(answer(), deadline=False), media_type=JSON)


def _check_layout(codec: Codec, options: EncodeOptions, media: str = JSON) -> Layout:
    """Return a layout after trying it on one frame, so that a bad base fails before the work."""
    layout = find_layout(options.layout)
    frame = [[0] * count for count in codec.config.codes_per_frame]
    to_layout(frame, layout.name, config=codec.config, base=options.base)
    if media == NPZ and layout.name != "hierarchical":
        raise InvalidRequestError(f"npz carries the layout hierarchical only, not {layout.name}")
    return layout


async def _item(
    call: Call, index: int, upload: Upload, layout: Layout, base: int | None
) -> NdjsonItem:
    named = {"index": index, "name": upload.name}

    def write(codes: Codes) -> bytes:
        return _dump({**named, "result": _answer(call.codec, upload, codes, layout, base)})

    async def answer() -> NdjsonItem:
        _, codes = await pipeline.encode(call, upload)
        with call.stage("write"):
            line = await call.service.io.run(write, codes)
        call.reservation.grow(len(line))
        return NdjsonItem(line, held=len(line))

    made = await call.item(answer())
    return made if isinstance(made, NdjsonItem) else NdjsonItem(_dump({**named, **made}))


def _answer(
    codec: Codec, upload: Upload, codes: Codes, layout: Layout, base: int | None
) -> dict[str, Any]:
    return {
        "layout": layout.versioned,
        "base": layout.default_base if base is None else base,
        "codes": to_layout(codes.levels, layout.name, config=codec.config, base=base),
        "num_samples": codes.num_samples,
        "sample_rate": codes.sample_rate,
        "duration": codes.duration,
        **({"warnings": upload.warnings} if upload.warnings else {}),
        "model": {"version": codec.version, "token_space": codec.token_space},
    }


def _serialise(
    call: Call, upload: Upload, codes: Codes, layout: Layout, base: int | None, media: str
) -> bytes:
    codec = call.codec
    if media == NPZ:
        return codes.to_npz()
    answer = _answer(codec, upload, codes, layout, base)
    if media == JSON:
        return _dump(answer)
    if layout.name == "hierarchical" and codec.config.codebook_size <= UINT16_CODES:
        answer["codes"] = [level.astype("<u2").tobytes() for level in codes.levels]
    return bytes(msgpack.packb(answer))


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
