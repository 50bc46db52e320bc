"""Text in, speech out: an OpenAI-style speech API before a language model and this service.

    python examples/orpheus/bridge.py --language-model http://127.0.0.1:8080 --snac http://127.0.0.1:8000

The language model (vLLM, llama.cpp, or anything else with a streaming ``/v1/completions``) writes
``<custom_token_N>``; each frame of seven goes to the service at once, and audio leaves as it comes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from snac_core import audio
from snac_core.client import AsyncSnacClient, ProblemError
from snac_core.types import Samples

log = logging.getLogger("bridge")

SAMPLE_RATE = 24000
FIRST_TOKEN_ID = 128256
MARKERS = 10
"""``<custom_token_0>`` is `FIRST_TOKEN_ID`; the first ten are no audio."""

FRAME = 7
TOKEN = re.compile(r"<custom_token_(\d+)>")
SAMPLING = {"temperature": 0.6, "top_p": 0.9, "repeat_penalty": 1.1, "repetition_penalty": 1.1}
"""llama.cpp and vLLM name the penalty differently; each ignores the other's name."""


class Speech(BaseModel):
    """The body of ``POST /v1/audio/speech``, as OpenAI's clients send it."""

    input: Annotated[str, Field(min_length=1, max_length=4096)]
    model: str = "orpheus"
    voice: str = "tara"
    response_format: Literal["wav", "pcm"] = "wav"
    max_tokens: Annotated[int, Field(ge=FRAME)] = 4096


async def frames(texts: AsyncIterator[str]) -> AsyncIterator[list[int]]:
    """Yield the token ids of whole frames; what a model leaves of a last frame is dropped."""
    pending, ids = "", list[int]()
    async for text in texts:
        pending += text
        end = 0
        for match in TOKEN.finditer(pending):
            end = match.end()
            if int(match[1]) >= MARKERS:
                ids.append(FIRST_TOKEN_ID + int(match[1]))
            if len(ids) == FRAME:
                yield ids
                ids = []
        pending = pending[end:]


async def completion(http: httpx.AsyncClient, url: str, speech: Speech) -> AsyncIterator[str]:
    """Yield the text of a completion as the language model writes it.

    Raises
    ------
    HTTPException
        502 if the language model cannot be reached or refuses.
    """
    body: dict[str, Any] = {
        "model": speech.model,
        "prompt": f"<|audio|>{speech.voice}: {speech.input}<|eot_id|>",
        "max_tokens": speech.max_tokens,
        "stream": True,
        **SAMPLING,
    }
    try:
        async with http.stream("POST", f"{url}/v1/completions", json=body) as answer:
            if not answer.is_success:
                said = (await answer.aread()).decode(errors="replace")[:500]
                raise HTTPException(
                    502, f"the language model answered {answer.status_code}: {said}"
                )
            async for line in answer.aiter_lines():
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                if line.startswith("data:"):
                    yield json.loads(data)["choices"][0]["text"]
    except httpx.HTTPError as error:
        raise HTTPException(
            502, f"the language model at {url} cannot be reached: {error}"
        ) from error


def pcm(samples: Samples) -> bytes:
    """Return float samples as 16 bit, little endian."""
    return (np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes()


def create_bridge(language_model: str, snac: str, api_key: str | None = None) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    language_model, snac
        URLs of the language model's server and of the service.
    api_key
        The service's key, if it wants one.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            httpx.AsyncClient(timeout=60) as app.state.http,
            AsyncSnacClient(snac, api_key) as app.state.snac,
        ):
            yield

    app = FastAPI(title="Orpheus bridge", lifespan=lifespan)

    @app.post("/v1/audio/speech")
    async def speak(speech: Speech) -> StreamingResponse:
        texts = completion(app.state.http, language_model, speech)
        # A token out of place, as a model may sample one, costs its frame and no more.
        stream = app.state.snac.stream_decode(frames(texts), layout="orpheus", invalid="skip")
        try:
            # Waiting for the first audio lets an error have a status of its own.
            first = await anext(stream)
        except StopAsyncIteration:
            raise HTTPException(502, "the language model wrote no audio tokens") from None
        except ProblemError as error:
            raise HTTPException(502, f"the SNAC service: {error}") from error

        async def body() -> AsyncIterator[bytes]:
            if speech.response_format == "wav":
                yield audio.wav_header(SAMPLE_RATE)
            yield pcm(first)
            try:
                async for samples in stream:
                    yield pcm(samples)
            except ProblemError as error:
                log.warning("the speech ends early: %s", error)

        return StreamingResponse(body(), media_type=f"audio/{speech.response_format}")

    return app


def main() -> None:
    """Run the bridge."""
    parser = argparse.ArgumentParser(description="Speech from a language model's audio tokens.")
    parser.add_argument("--language-model", default="http://127.0.0.1:8080", metavar="URL")
    parser.add_argument("--snac", default="http://127.0.0.1:8000", metavar="URL")
    parser.add_argument("--api-key", help="the service's key, if it wants one")
    parser.add_argument("--port", type=int, default=8001)
    arguments = parser.parse_args()
    app = create_bridge(arguments.language_model, arguments.snac, arguments.api_key)
    uvicorn.run(app, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
