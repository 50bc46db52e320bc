"""POST /v1/reconstruct."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from service.api import pipeline
from service.api.content_negotiation import AUDIO_FORMATS, audio_media, audio_type
from service.api.openapi import (
    AUDIO_BODY,
    COMPUTING,
    RECONSTRUCT_ANSWER,
    problems,
)
from service.api.requests import CallDep
from service.api.routes.decode import audio_headers
from service.api.schemas import ReconstructOptions
from service.api.uploads import read_audio, warning_headers
from snac_core.codec import Codec
from snac_core.types import Samples
from snac_core.utils.incremental import Incremental

router = APIRouter(tags=["decode"])


@router.post(
    "/v1/reconstruct",
    summary="Audio to codes and back to audio",
    responses={200: RECONSTRUCT_ANSWER, **problems(*COMPUTING)},
    response_class=Response,
    openapi_extra=AUDIO_BODY,
)
async def reconstruct(call: CallDep, query: Annotated[ReconstructOptions, Query()]) -> Response:
    """Encode and decode one audio file; response headers give quality measures."""
    audio_media(call.accept, query.format)
    codec = call.admit()
    upload, options = await call.before_deadline(read_audio(call.request, query))
    media = audio_media(call.accept, options.format)

    async def answer() -> tuple[bytes, dict[str, str]]:
        original, codes = await pipeline.encode(call, upload)
        samples, body = await pipeline.decode(
            call, lambda: codec.decode_job(codes, options.noise, options.seed), AUDIO_FORMATS[media]
        )
        with call.stage("quality"):
            figures = await call.service.io.run_incremental(
                lambda: _quality(codec, original, samples)
            )
        return body, {**audio_headers(codec, samples), **figures, **warning_headers(upload)}

    body, headers = await call.run_until_disconnect(answer())
    return Response(body, headers=headers, media_type=audio_type(media, codec.sample_rate))


def _quality(codec: Codec, original: Samples, samples: Samples) -> Incremental[dict[str, str]]:
    # It imports SciPy, which the warm-up does for this call alone.
    from snac_core.quality import log_mel_incremental, si_sdr_incremental, stoi_incremental

    distance = yield from log_mel_incremental(original, samples, codec.sample_rate)
    intelligibility = yield from stoi_incremental(original, samples, codec.sample_rate)
    distortion = yield from si_sdr_incremental(original, samples)
    return {
        "X-Bitrate": f"{codec.config.bits_per_second:.0f}",
        "X-SI-SDR": f"{distortion:.2f}",
        "X-STOI": f"{intelligibility:.3f}",
        "X-Log-Mel-Distance": f"{distance:.3f}",
    }
