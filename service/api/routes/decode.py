"""`POST /v1/decode` and `/v1/decode/batch`: codes in, audio out."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from service.api import pipeline
from service.api.content_negotiation import (
    AUDIO_FORMATS,
    JSON,
    ZIP,
    audio_media,
    audio_type,
    negotiate,
)
from service.api.decode_request import Fields, parse_fields, plan_decode, read_codes
from service.api.openapi import (
    AUDIO_ANSWER,
    COMPUTING,
    DECODE_BATCH_BODY,
    DECODE_BODY,
    binary,
    problems,
)
from service.api.requests import Call, CallDep
from service.api.schemas import DecodeBatchAnswer
from service.api.streaming_audio import STREAMED, StreamingAudioResponse
from service.api.uploads import read_codes_body
from service.errors import InvalidRequestError
from service.fields import FORMAT, IncompleteField, Seed
from service.limits.body import check_count
from snac_core.audio import MEDIA_TYPES, AudioFormat
from snac_core.codec import Codec
from snac_core.inference.jobs import DecodeJob
from snac_core.types import NoiseMode, Samples
from snac_core.utils.incremental import Incremental

router = APIRouter(tags=["decode"])


@router.post(
    "/v1/decode",
    summary="Codes to audio",
    responses={200: AUDIO_ANSWER, **problems(*COMPUTING, 409)},
    response_class=Response,
    openapi_extra=DECODE_BODY,
)
async def decode(
    call: CallDep,
    layout: Annotated[str | None, Query(max_length=64)] = None,
    base: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    num_samples: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
    seed: Annotated[Seed | None, Query()] = None,
    noise: Annotated[NoiseMode | None, Query()] = None,
    token_space: Annotated[str | None, Query(max_length=64)] = None,
    incomplete: Annotated[IncompleteField | None, Query()] = None,
    format: Annotated[AudioFormat | None, Query(description=FORMAT)] = None,
    stream: Annotated[
        bool, Query(description="Send the audio while it is decoded; WAV and PCM only.")
    ] = False,
) -> Response:
    """Decode one set of codes; a response of `/v1/encode` can be posted back unchanged.

    Query parameters set fields that the body lacks, for example of an npz file.
    """
    media = audio_media(call.accept, format, STREAMED if stream else tuple(AUDIO_FORMATS))
    codec, settings = call.admit(), call.service.settings
    if stream:
        call.service.streams.check_open(call.caller)
    data, sent = await read_codes_body(call)
    query = {
        "layout": layout,
        "base": base,
        "num_samples": num_samples,
        "seed": seed,
        "noise": noise,
        "token_space": token_space,
        "incomplete": incomplete,
    }

    def fields() -> Fields:
        named = {name: value for name, value in query.items() if value is not None}
        return named | parse_fields(data, sent, codec.config, settings.max_json_depth)

    def plan() -> DecodeJob:
        return plan_decode(codec, fields(), settings.max_seconds)

    def begin() -> StreamingAudioResponse:
        codes, options = read_codes(codec, fields(), settings.max_seconds)
        return StreamingAudioResponse(call, codes, options, media)

    if stream:
        return await call.run_until_disconnect(call.service.io.run(begin))
    samples, body = await call.run_until_disconnect(
        pipeline.decode(call, plan, AUDIO_FORMATS[media])
    )
    kind = audio_type(media, codec.sample_rate)
    return Response(body, headers=audio_headers(codec, samples), media_type=kind)


@router.post(
    "/v1/decode/batch",
    summary="Many sets of codes to audio",
    responses={
        200: {
            "model": DecodeBatchAnswer,
            "content": binary(ZIP),
            "description": "An audio file or a problem for each item. As ZIP, files `0000.wav`, "
            "`0001.wav`, ..., with `0001.problem.json` in place of a failed one.",
        },
        **problems(*COMPUTING),
    },
    openapi_extra=DECODE_BATCH_BODY,
)
async def decode_batch(
    call: CallDep,
    format: Annotated[AudioFormat, Query(description="Of each audio file.")] = "wav",
) -> Response:
    """Decode `items`, each as for `/v1/decode`; a failed item does not affect the others."""
    media = negotiate(call.accept, (JSON, ZIP))
    codec, service = call.admit(), call.service
    data, sent = await read_codes_body(call)
    depth = service.settings.max_json_depth
    fields = await call.run_until_disconnect(
        service.io.run(parse_fields, data, sent, codec.config, depth)
    )
    items = fields.get("items")
    if not isinstance(items, list) or set(fields) != {"items"}:
        raise InvalidRequestError("the body must be an object with one list, 'items'")
    check_count(len(items), service.settings.max_items, "items")

    async def answer() -> bytes:
        results = await asyncio.gather(
            *(
                _item(call, index, item, format, as_text=media == JSON)
                for index, item in enumerate(items)
            )
        )
        with call.stage("write"):
            write = _zip if media == ZIP else _json
            return await service.io.run_incremental(lambda: write(results, format))

    return Response(await call.run_until_disconnect(answer(), deadline=False), media_type=media)


async def _item(
    call: Call, index: int, fields: object, audio_format: AudioFormat, *, as_text: bool
) -> dict[str, Any]:
    def plan() -> DecodeJob:
        if not isinstance(fields, dict):
            raise InvalidRequestError(f"an item must be an object, not a {type(fields).__name__}")
        return plan_decode(call.codec, fields, call.service.settings.max_seconds)

    async def answer() -> dict[str, Any]:
        samples, data = await pipeline.decode(call, plan, audio_format, as_text=as_text)
        return {
            "audio": data,
            "media_type": MEDIA_TYPES[audio_format],
            "num_samples": len(samples),
            "sample_rate": call.codec.sample_rate,
        }

    return {"index": index, **await call.item(answer())}


def _json(results: list[Fields], audio_format: AudioFormat) -> Incremental[bytes]:
    items = []
    for result in results:
        text = {"audio": result["audio"].decode()} if "audio" in result else {}
        items.append(json.dumps({**result, **text}, separators=(",", ":")))
        yield
    return f'{{"results":[{",".join(items)}]}}'.encode()


def _zip(results: list[Fields], audio_format: AudioFormat) -> Incremental[bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for result in results:
            name = f"{result['index']:04}"
            if "audio" in result:
                archive.writestr(f"{name}.{audio_format}", result["audio"])
            else:
                archive.writestr(f"{name}.problem.json", json.dumps(result["problem"]))
            yield
    return file.getvalue()


def audio_headers(codec: Codec, samples: Samples) -> dict[str, str]:
    """Return the headers with the length and sample rate of the audio."""
    return {"X-Num-Samples": str(len(samples)), "X-Sample-Rate": str(codec.sample_rate)}
