"""Examples of every call in the OpenAPI document: a command each, and JSON bodies.

A test runs each command against a server.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.api.content_negotiation import JSON

BASE = "http://127.0.0.1:8000"
"""Where `make serve` listens, which the commands name."""

COMMANDS = {
    "/v1/encode": f"curl --data-binary @voice.wav '{BASE}/v1/encode?layout=flat'",
    "/v1/encode/batch": (
        "curl --form files=@voice.wav --form files=@voice.wav \\\n"
        f"  --header 'Accept: application/x-ndjson' {BASE}/v1/encode/batch"
    ),
    "/v1/decode": (
        "curl --json '{\"codes\": [[1024], [7, 8], [1, 2, 3, 4]]}' \\\n"
        f"  --header 'Accept: audio/flac' {BASE}/v1/decode --output speech.flac"
    ),
    "/v1/decode/batch": (
        'curl --json \'{"items": [{"codes": [[1024], [7, 8], [1, 2, 3, 4]]}]}\' \\\n'
        f"  --header 'Accept: application/zip' {BASE}/v1/decode/batch --output speech.zip"
    ),
    "/v1/reconstruct": (
        f"curl --data-binary @voice.wav {BASE}/v1/reconstruct --output back.wav --dump-header -"
    ),
    "/v1/models": f"curl {BASE}/v1/models",
    "/v1/models/current": f"curl {BASE}/v1/models/current",
    "/v1/models/reload": (
        f"curl --request POST --header 'X-Admin-Key: the admin key' {BASE}/v1/models/reload"
    ),
    "/v1/models/rollback": (
        f"curl --request POST --header 'X-Admin-Key: the admin key' {BASE}/v1/models/rollback"
    ),
    "/health/live": f"curl {BASE}/health/live",
    "/health/ready": f"curl {BASE}/health/ready",
    "/health/startup": f"curl {BASE}/health/startup",
    "/metrics": f"curl {BASE}/metrics",
}
"""A command for each path."""

_FRAME = [[1024], [7, 8], [1, 2, 3, 4]]
_FLAT = [1024, 7, 1, 2, 8, 3, 4]
_ORPHEUS = [128266 + 4096 * position + code for position, code in enumerate(_FLAT)]

BODIES: dict[str, dict[str, tuple[str, Any]]] = {
    "/v1/decode": {
        "codes": ("The codec's own levels: one coarse frame", {"codes": _FRAME}),
        "flat": (
            "The same frame in the order in which it is read",
            {"codes": _FLAT, "layout": "flat"},
        ),
        "orpheus": (
            "The same frame as an Orpheus-style language model writes it",
            {"codes": _ORPHEUS, "layout": "orpheus", "base": 128266},
        ),
        "cut": (
            "Without the decoder's noise, cut to 2000 samples",
            {"codes": _FRAME, "noise": "off", "num_samples": 2000},
        ),
    },
    "/v1/decode/batch": {
        "two": (
            "Two items, each with its own layout",
            {"items": [{"codes": _FRAME}, {"codes": _ORPHEUS, "layout": "orpheus"}]},
        ),
    },
}
"""JSON bodies for each path that takes one: name -> (what it is, the body)."""


class DocumentedApp(FastAPI):
    """An app whose OpenAPI document has the examples of this module."""

    def openapi(self) -> dict[str, Any]:
        """Return the document, made once."""
        if self.openapi_schema is None:
            add_examples(super().openapi())
        assert self.openapi_schema is not None
        return self.openapi_schema


def add_examples(document: dict[str, Any]) -> None:
    """Add to each call its command, in the description and for tools that show samples."""
    for path, methods in document["paths"].items():
        for call in methods.values():
            command = COMMANDS[path]
            call["description"] = f"{call['description']}\n\n```sh\n{command}\n```"
            call["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": command}]
            for name, (summary, body) in BODIES.get(path, {}).items():
                content = call["requestBody"]["content"][JSON]
                content.setdefault("examples", {})[name] = {"summary": summary, "value": body}
