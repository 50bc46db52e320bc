"""The AsyncAPI document of the WebSocket protocol, from the models of its messages."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from pydantic import BaseModel

from service.websocket.messages import DecodeStart, EncodeStart, End
from service.websocket.replies import (
    DecodeDone,
    DecodeReady,
    EncodedCodes,
    EncodeDone,
    EncodeReady,
    StreamProblem,
)

ASYNCAPI = "3.0.0"

_SCHEMA = "#/components/schemas/{model}"

_DESCRIPTION = """\
Tokens in and audio out, or audio in and tokens out, while both still grow. Text frames are JSON;
binary frames are PCM, or tokens as little-endian int32. Fields of "start" can be URL parameters
instead. Errors before the handshake are HTTP problem responses.
"""

_CLOSE_CODES = {
    1000: "the stream is complete",
    1007: "invalid tokens, audio or messages",
    1008: "another token space, no traffic for too long, or the longest duration reached",
    1009: "a message is too large",
    1011: "the service failed",
    1012: "the service is stopping",
    1013: "too little memory; try again later",
}

_MODEL = {"version": "20260101T120000.000000Z-0123abcd", "token_space": "d31f2a9c07be"}

_TOKENS = {
    "oneOf": [
        {"type": "integer"},
        {"type": "string", "description": "Text of orpheus-text, which needs no quotes either."},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        {
            "type": "object",
            "properties": {"type": {"const": "tokens"}, "tokens": {}},
            "required": ["type", "tokens"],
            "additionalProperties": False,
        },
    ]
}

_BINARY = {"type": "string", "format": "binary"}

_FRAME = {
    "sample_rate": 24000,
    "frame_samples": 2048,
    "tokens_per_frame": 7,
    "codes_per_frame": [1, 2, 4],
    "lookahead_samples": 4757,
    "model": _MODEL,
}


class Message(NamedTuple):
    """One message: what it is, its model or schema, and an example."""

    summary: str
    payload: type[BaseModel] | dict[str, Any]
    content_type: str
    example: Any


MESSAGES: dict[str, Message] = {
    "decodeStart": Message(
        "How to read the tokens, and the format of the audio. The first message.",
        DecodeStart,
        "application/json",
        {"type": "start", "layout": "orpheus", "format": "s16le"},
    ),
    "tokens": Message(
        "A token, a list, one list for each lane, or an object with them.",
        _TOKENS,
        "application/json",
        [133001, 137400],
    ),
    "binaryTokens": Message(
        "Tokens as int32, little endian: any number for flat and orpheus, whole coarse frames "
        "level after level for hierarchical, whole steps for mini-omni.",
        _BINARY,
        "application/octet-stream",
        None,
    ),
    "encodeStart": Message(
        "The format of the PCM, and the layout of the codes. The first message.",
        EncodeStart,
        "application/json",
        {"type": "start", "sample_rate": 48000, "encoding": "s16le", "layout": "hierarchical"},
    ),
    "pcm": Message(
        "Mono PCM, little endian, in the format of the start; divided anywhere.",
        _BINARY,
        "audio/pcm",
        None,
    ),
    "end": Message("The end of the input.", End, "application/json", {"type": "end"}),
    "decodeReady": Message(
        "The start was accepted.",
        DecodeReady,
        "application/json",
        {
            "type": "ready",
            "layout": "orpheus/1",
            "base": 128266,
            **_FRAME,
            "format": "s16le",
        },
    ),
    "encodeReady": Message(
        "The start was accepted.",
        EncodeReady,
        "application/json",
        {
            "type": "ready",
            "layout": "hierarchical/1",
            "base": None,
            **_FRAME,
            "encoding": "s16le",
            "input_sample_rate": 48000,
        },
    ),
    "codes": Message(
        "Codes of whole coarse frames.",
        EncodedCodes,
        "application/json",
        {"type": "codes", "frame": 0, "codes": [[1024], [7, 8], [1, 2, 3, 4]]},
    ),
    "decodeDone": Message(
        "All audio has been sent. The connection is closed next, with 1000.",
        DecodeDone,
        "application/json",
        {
            "type": "done",
            "num_samples": 2048,
            "duration": 0.0853,
            "frames": 1,
            "frames_skipped": 0,
            "tokens": 7,
            "model": _MODEL,
        },
    ),
    "encodeDone": Message(
        "All codes have been sent. The connection is closed next, with 1000.",
        EncodeDone,
        "application/json",
        {
            "type": "done",
            "num_samples": 4096,
            "sample_rate": 24000,
            "duration": 0.1707,
            "frames": 2,
            "model": _MODEL,
        },
    ),
    "problem": Message(
        "What went wrong. The connection is closed next, with the code for it.",
        StreamProblem,
        "application/json",
        {
            "type": "problem",
            "problem": {
                "type": "urn:snac:problem:invalid-layout",
                "title": "The tokens do not follow their layout",
                "status": 422,
                "detail": "index 17: token 128273 is outside 140554..144649, the codes of "
                "position 3",
                "instance": "/v1/stream/decode",
                "request_id": "5f2b0e0c8d0f4a6f8d6a3a0c2b1d9e77",
            },
        },
    ),
}

# channel -> (address, title, what the client sends, what the service sends)
_CHANNELS = {
    "decode": (
        "/v1/stream/decode",
        "Tokens in, audio out",
        ("decodeStart", "tokens", "binaryTokens", "end"),
        ("decodeReady", "pcm", "decodeDone", "problem"),
    ),
    "encode": (
        "/v1/stream/encode",
        "Audio in, tokens out",
        ("encodeStart", "pcm", "end"),
        ("encodeReady", "codes", "encodeDone", "problem"),
    ),
}


def asyncapi_document(version: str) -> dict[str, Any]:
    """Return the document, JSON-like.

    Parameters
    ----------
    version
        Version of the service.
    """
    schemas: dict[str, Any] = {}
    messages = {name: _message(name, schemas) for name in MESSAGES}
    operations = {}
    for name, (_, title, sent, received) in _CHANNELS.items():
        for action, which, who in (
            ("receive", sent, "The client sends"),
            ("send", received, "The service sends"),
        ):
            operations[f"{name}.{action}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "title": f"{title}: {who[0].lower()}{who[1:]}",
                "messages": [{"$ref": f"#/channels/{name}/messages/{one}"} for one in which],
            }
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "SNAC tokenizer streams",
            "version": version,
            "description": _DESCRIPTION,
        },
        "defaultContentType": "application/json",
        "channels": {
            name: {
                "address": address,
                "title": title,
                "messages": {
                    one: {"$ref": f"#/components/messages/{one}"} for one in (*sent, *received)
                },
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
            for name, (address, title, sent, received) in _CHANNELS.items()
        },
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": schemas,
            "securitySchemes": {
                "apiKey": {
                    "type": "httpApiKey",
                    "name": "X-Api-Key",
                    "in": "header",
                    "description": "If the service has keys. Browsers, which cannot set headers "
                    "on a WebSocket, offer the subprotocols snac and snac.key.KEY, with the key "
                    "in base64url.",
                }
            },
        },
        "x-close-codes": {str(code): meaning for code, meaning in _CLOSE_CODES.items()},
    }


def _message(name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Describe one message, and add the schemas that it refers to."""
    summary, payload, content_type, example = MESSAGES[name]
    if isinstance(payload, dict):
        schema: dict[str, Any] = copy.deepcopy(payload)
    else:
        found = payload.model_json_schema(ref_template=_SCHEMA)
        schemas.update(found.pop("$defs", {}))
        schemas[payload.__name__] = found
        schema = {"$ref": _SCHEMA.format(model=payload.__name__)}
    message: dict[str, Any] = {
        "name": name,
        "summary": summary,
        "contentType": content_type,
        "payload": schema,
    }
    if example is not None:
        message["examples"] = [{"payload": example}]
    return message
