"""Schemas of the messages that the service sends on a WebSocket, for the AsyncAPI document.

The sessions build these messages as plain objects; a test checks every one that real streams send
against the schemas here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.websocket.pcm import PcmEncoding, PcmFormat


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamModel(_Reply):
    """The model of a stream, from its start to its end."""

    version: str
    token_space: str


class Ready(_Reply):
    """What both kinds of "ready" have: the layout, and the shape of the model's frames."""

    type: Literal["ready"]
    layout: str = Field(examples=["orpheus/1"])
    base: int | None = Field(description="Token of code 0 at position 0; null for bare codes.")
    sample_rate: int = Field(description="The model's, in Hz.", examples=[24000])
    frame_samples: int = Field(description="Samples of a coarse frame.", examples=[2048])
    tokens_per_frame: int = Field(examples=[7])
    codes_per_frame: list[int] = Field(
        description="Codes of each level in a coarse frame.", examples=[[1, 2, 4]]
    )
    lookahead_samples: int = Field(
        description="How far codes must reach beyond audio before it is sent.", examples=[4757]
    )
    model: StreamModel


class DecodeReady(Ready):
    """The service waits for tokens."""

    format: PcmFormat


class EncodeReady(Ready):
    """The service waits for PCM."""

    encoding: PcmEncoding
    input_sample_rate: int = Field(description="Of the PCM to be sent, in Hz.")


class EncodedCodes(_Reply):
    """Codes of whole coarse frames, in the layout asked for."""

    type: Literal["codes"]
    frame: int = Field(description="Index of the first coarse frame.")
    codes: list[int] | list[list[int]] | list[str]


class Done(_Reply):
    """What both kinds of "done" have."""

    type: Literal["done"]
    num_samples: int
    duration: float = Field(description="Seconds.")
    frames: int = Field(description="Coarse frames.")
    model: StreamModel


class DecodeDone(Done):
    """All audio has been sent; the service closes with 1000."""

    frames_skipped: int = Field(description="Frames left out for a wrong token.")
    tokens: int = Field(description="Tokens received.")


class EncodeDone(Done):
    """All codes have been sent; the service closes with 1000."""

    sample_rate: int = Field(description="The model's, in Hz.")


class ProblemDetails(BaseModel):
    """A problem, with the fields of RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:snac:problem:invalid-layout"])
    title: str
    status: int
    detail: str
    instance: str
    request_id: str


class StreamProblem(_Reply):
    """What went wrong; the service closes next, with the code for it."""

    type: Literal["problem"]
    problem: ProblemDetails
