"""The shapes of requests and answers, as they are checked and as `/docs` shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from service.fields import Seed
from snac_core.types import NoiseMode

Tokens = list[list[int]] | list[int]


class Problem(BaseModel):
    """An error, in the form of RFC 9457."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "urn:snac:problem:invalid-codes",
                "title": "The codes are not valid",
                "status": 422,
                "detail": "level 1, index 3: code 4096 is outside 0..4095",
                "instance": "/v1/decode",
                "request_id": "5f2b0e0c8d0f4a6f8d6a3a0c2b1d9e77",
            }
        },
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str


class ModelName(BaseModel):
    """Which model made an answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str
    token_space: str


class EncodeAnswer(BaseModel):
    """Codes of one file."""

    layout: str = Field(examples=["hierarchical/1"])
    base: int | None = Field(default=None, description="For layouts that have one.")
    codes: Tokens = Field(description="One list per level (or row), or one list, by layout.")
    num_samples: int = Field(description="Samples of audio that the codes decode to.")
    sample_rate: int = Field(description="Hz.")
    duration: float = Field(description="Seconds.")
    model: ModelName


class EncodeBatchItem(BaseModel):
    """One file's result or problem."""

    index: int
    name: str = Field(description="The file name that was sent.")
    result: EncodeAnswer | None = None
    problem: Problem | None = None


class EncodeBatchAnswer(BaseModel):
    """One entry per file, in the order they were sent."""

    results: list[EncodeBatchItem]


class DecodeOptions(BaseModel):
    """What may accompany codes; an encode answer, posted back whole, fits."""

    model_config = ConfigDict(extra="forbid", strict=True)

    layout: str = Field(
        default="hierarchical",
        max_length=64,
        description="hierarchical, flat, orpheus or mini-omni, with or without its version.",
    )
    base: NonNegativeInt | None = Field(default=None, description="For layouts that have one.")
    num_samples: PositiveInt | None = Field(
        default=None, description="Samples to answer with; null means all that the codes hold."
    )
    seed: Seed = Field(default=0, description="Decides the decoder's noise.")
    noise: NoiseMode = "seeded"
    token_space: str | None = Field(
        default=None,
        max_length=64,
        description="The token space the codes came from; another than the model's is a 409.",
    )
    model: ModelName | None = Field(default=None, description="As encode answered it.")
    sample_rate: PositiveInt | None = Field(default=None, description="As encode answered it.")
    duration: float | None = Field(default=None, description="As encode answered it; not used.")


class DecodeBody(DecodeOptions):
    """Codes and what may accompany them; only ``codes`` is required."""

    codes: Tokens


class DecodeBatchBody(BaseModel):
    """Many sets of codes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[Any]


class DecodeBatchItem(BaseModel):
    """One item's audio or problem."""

    index: int
    audio: str | None = Field(default=None, description="An audio file, base64.")
    media_type: str | None = None
    num_samples: int | None = None
    sample_rate: int | None = None
    problem: Problem | None = None


class DecodeBatchAnswer(BaseModel):
    """One entry per item, in the order they were sent."""

    results: list[DecodeBatchItem]


class ModelVersion(BaseModel):
    """A version in the model store, or the model being served."""

    version: str
    state: Literal["serving", "available", "failed"]
    token_space: str | None = None
    created: str | None = None
    parent: str | None = None
    reason: str | None = Field(default=None, description="Why it is not served.")
    failed_at: str | None = None


class ModelList(BaseModel):
    """Every version that is known."""

    models: list[ModelVersion]


class CurrentModel(BaseModel):
    """The model that answers now."""

    version: str
    token_space: str
    served_since: str
    device: str
    precision: str
    sample_rate: int
    frame_samples: int = Field(description="Samples that one code of the first level covers.")
    codes_per_frame: list[int] = Field(description="Codes of each level in that time.")
    codebook_size: int
    tokens_per_second: float
    bits_per_second: float


class Health(BaseModel):
    """A probe's answer when all is well."""

    status: str
