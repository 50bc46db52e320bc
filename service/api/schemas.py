"""Schemas of requests and responses, for validation and for `/docs`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from service.fields import FORMAT, Base, ChannelName, IncompleteField, LayoutField, Seed
from snac_core.audio import AudioFormat
from snac_core.types import NoiseMode

Tokens = list[list[int]] | list[int] | list[str] | str


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
    """The model that made a response."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str
    token_space: str


class AudioOptions(BaseModel):
    """Options of every call that reads audio: query parameters, or fields of a form."""

    channel: ChannelName = "average"


class EncodeOptions(AudioOptions):
    """Options of an encode request."""

    layout: LayoutField = "hierarchical"
    base: Base = None


class ReconstructOptions(AudioOptions):
    """Options of a reconstruct request."""

    seed: Seed = 0
    noise: NoiseMode = "seeded"
    format: AudioFormat | None = Field(default=None, description=FORMAT)


class EncodeAnswer(BaseModel):
    """The codes of one file."""

    layout: str = Field(examples=["hierarchical/1"])
    base: int | None = Field(default=None, description="For layouts that have one.")
    codes: Tokens = Field(description="One list per level (or row), or one list, by layout.")
    num_samples: int = Field(description="Samples of audio that the codes decode to.")
    sample_rate: int = Field(description="Hz.")
    duration: float = Field(description="Seconds.")
    warnings: list[str] | None = Field(
        default=None, description="What to know of the audio, if there is anything."
    )
    model: ModelName


class EncodeBatchItem(BaseModel):
    """The result or problem of one file."""

    index: int
    name: str = Field(description="The file name as sent.")
    result: EncodeAnswer | None = None
    problem: Problem | None = None


class EncodeBatchAnswer(BaseModel):
    """One entry per file, in the order sent."""

    results: list[EncodeBatchItem]


class DecodeOptions(BaseModel):
    """Options of a decode request; an encode response posted back whole is valid."""

    model_config = ConfigDict(extra="forbid", strict=True)

    layout: LayoutField = "hierarchical"
    base: NonNegativeInt | None = Field(default=None, description="For layouts that have one.")
    num_samples: PositiveInt | None = Field(
        default=None, description="Samples to return; null returns all that the codes hold."
    )
    seed: Seed = Field(default=0, description="Seed of the decoder's noise.")
    noise: NoiseMode = "seeded"
    incomplete: IncompleteField = "refuse"
    token_space: str | None = Field(
        default=None,
        max_length=64,
        description="Token space of the codes; 409 if it is not the model's.",
    )
    model: ModelName | None = Field(default=None, description="As returned by encode.")
    sample_rate: PositiveInt | None = Field(default=None, description="As returned by encode.")
    duration: float | None = Field(default=None, description="As returned by encode; not used.")
    warnings: list[str] | None = Field(default=None, description="As returned by encode; not used.")


class DecodeBody(DecodeOptions):
    """Codes and options; only ``codes`` is required."""

    codes: Tokens


class DecodeBatchBody(BaseModel):
    """Many sets of codes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[Any]


class DecodeBatchItem(BaseModel):
    """The audio or problem of one item."""

    index: int
    audio: str | None = Field(default=None, description="An audio file, base64.")
    media_type: str | None = None
    num_samples: int | None = None
    sample_rate: int | None = None
    problem: Problem | None = None


class DecodeBatchAnswer(BaseModel):
    """One entry per item, in the order sent."""

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
    """All known versions."""

    models: list[ModelVersion]


class CurrentModel(BaseModel):
    """The model being served."""

    version: str
    token_space: str
    served_since: str
    device: str
    precision: str
    sample_rate: int
    frame_samples: int = Field(description="Samples per code of the first level.")
    codes_per_frame: list[int] = Field(description="Codes of each level per frame.")
    codebook_size: int
    tokens_per_second: float
    bits_per_second: float


class Health(BaseModel):
    """The response of a successful health probe."""

    status: str
    store: Literal["fresh", "stale"] | None = Field(
        default=None, description="Whether the model store has been read of late."
    )
