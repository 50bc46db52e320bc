"""A language model that says one sentence: it streams the tokens of a recording.

    python examples/orpheus/fake_language_model.py voice.wav --tokens-per-second 120

For trying the bridge without a GPU. The stream is that of ``/v1/completions`` of vLLM and
llama.cpp, markers included; the tokens are real ones, of the model that the service serves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import snac_core
from snac_core import audio
from snac_core.layouts import to_layout

FIRST_TOKEN_ID = 128256


class Completion(BaseModel):
    """What is read of the body of ``POST /v1/completions``."""

    prompt: str
    stream: bool = False
    max_tokens: int = 4096


def tokens_of(recording: Path, model: str = "starter") -> list[str]:
    """Return the audio tokens of a recording as a language model writes them."""
    codec = snac_core.load(model)
    [codes] = codec.encode([audio.read(recording, codec.sample_rate)])
    ids = to_layout(codes.levels, "orpheus", config=codec.config)
    return [f"<custom_token_{id - FIRST_TOKEN_ID}>" for id in ids]


def create_language_model(tokens: Sequence[str], tokens_per_second: float = 0) -> FastAPI:
    """Return a server that writes ``tokens``, at a rate or, with 0, as fast as it can."""
    app = FastAPI(title="Fake language model")

    @app.post("/v1/completions")
    async def complete(completion: Completion) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            # The markers that a model writes before and after audio.
            for token in ["<custom_token_4>", *tokens[: completion.max_tokens], "<custom_token_2>"]:
                if tokens_per_second:
                    await asyncio.sleep(1 / tokens_per_second)
                yield f"data: {json.dumps({'choices': [{'index': 0, 'text': token}]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def main() -> None:
    """Run the server."""
    parser = argparse.ArgumentParser(description="Stream the tokens of a recording.")
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="starter", help="the model that the service serves")
    parser.add_argument("--tokens-per-second", type=float, default=120, metavar="N")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    tokens = tokens_of(arguments.recording, arguments.model)
    app = create_language_model(tokens, arguments.tokens_per_second)
    uvicorn.run(app, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
