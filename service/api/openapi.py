"""OpenAPI descriptions beyond parameters: bodies, media types and problems."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.api.content_negotiation import AUDIO_FORMATS, JSON, MSGPACK, NPZ
from service.api.multipart import MULTIPART
from service.api.schemas import DecodeBatchBody, DecodeBody, Problem
from service.problems import MEDIA_TYPE

Responses = dict[int | str, dict[str, Any]]

_COMPONENT = "#/components/schemas/{model}"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_MEANING = {
    400: "The audio or the body cannot be read.",
    401: "A valid key is required.",
    403: "The call is disabled on this server.",
    406: "No representation that the client accepts.",
    408: "The body arrived too slowly.",
    409: "The codes belong to another token space.",
    413: "Too many bytes, files or items, or too many seconds of audio.",
    415: "A content type, or an encoding of the body, that this call does not support.",
    422: "A parameter, field or code that is not valid.",
    429: "The queue is full, or a rate limit is exceeded; `Retry-After` says for how long.",
    500: "The service failed unexpectedly.",
    503: "The service is not ready.",
    504: "The request exceeded its deadline.",
}
COMPUTING = (400, 401, 406, 408, 413, 415, 422, 429, 500, 503, 504)
"""Problem statuses of every call that reads a body and uses the engine."""


def binary(*media: str) -> dict[str, Any]:
    """Describe binary content of any of ``media``."""
    return dict.fromkeys(media, _BINARY)


def problems(*statuses: int, **said: str) -> Responses:
    """Describe problem responses; ``status_409="..."`` overrides a description."""
    problem = {"$ref": _COMPONENT.format(model=Problem.__name__)}
    return {
        status: {
            "description": said.get(f"status_{status}", _MEANING[status]),
            "content": {MEDIA_TYPE: {"schema": problem}},
        }
        for status in statuses
    }


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a body's schema; what it refers to is among the components, from the answers."""
    schema = model.model_json_schema(ref_template=_COMPONENT)
    schema.pop("$defs", None)
    return schema


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _files(part: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        MULTIPART: {"schema": {"type": "object", "properties": {part: schema}, "required": [part]}}
    }


AUDIO_BODY = _body(
    {**binary("audio/*", "application/octet-stream"), **_files("file", _BINARY["schema"])}
)
AUDIO_FILES_BODY = _body(_files("files", {"type": "array", "items": _BINARY["schema"]}))
DECODE_BODY = _body({JSON: {"schema": _schema(DecodeBody)}, **binary(NPZ, MSGPACK)})
DECODE_BATCH_BODY = _body({JSON: {"schema": _schema(DecodeBatchBody)}, **binary(MSGPACK)})


def _headers(**said: tuple[str, str]) -> dict[str, Any]:
    return {
        "X-" + name.replace("_", "-"): {"description": text, "schema": {"type": kind}}
        for name, (text, kind) in said.items()
    }


AUDIO_ANSWER: dict[str, Any] = {
    "description": "The audio.",
    "content": binary(*AUDIO_FORMATS),
    "headers": _headers(
        Num_Samples=("Samples in the audio.", "integer"),
        Sample_Rate=("Hz.", "integer"),
        Model_Version=("Version of the model.", "string"),
        Token_Space=("Token space of the model.", "string"),
    ),
}
RECONSTRUCT_ANSWER: dict[str, Any] = {
    **AUDIO_ANSWER,
    "headers": {
        **AUDIO_ANSWER["headers"],
        **_headers(
            Bitrate=("Bits per second of the codes.", "integer"),
            SI_SDR=("Scale-invariant signal-to-distortion ratio, dB.", "string"),
            STOI=("Short-time objective intelligibility, at most 1.", "string"),
            Log_Mel_Distance=("Mean absolute difference of log-mel spectrograms.", "string"),
        ),
    },
}
