"""The types of configuration keys, each with its range."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Tag,
)
from pydantic.dataclasses import dataclass

from snac_core.config import SnacConfig

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

# Strict: true is no number, and a text neither.
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, gt=0)]
Whole = Annotated[int, Field(strict=True, ge=0)]
# The narrowest band, a tenth of the bins, is halved three times and must leave some.
FftSizes = tuple[Annotated[int, Field(strict=True, ge=256)], ...]
Number = Annotated[float, Field(strict=True)]
Above0 = Annotated[float, Field(strict=True, gt=0)]
AtLeast0 = Annotated[float, Field(strict=True, ge=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Decay = Annotated[float, Field(strict=True, ge=0, lt=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
Betas = tuple[Decay, Decay]


def _increasing(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("must be [lowest, highest]")
    return limits


_Ordered = AfterValidator(_increasing)
Range = Annotated[tuple[Number, Number], _Ordered]
Positives = Annotated[tuple[Above0, Above0], _Ordered]
Shares = Annotated[tuple[Share, Share], _Ordered]


def _first_and_last(epochs: object) -> object:
    return [epochs, epochs] if isinstance(epochs, int) else epochs


@dataclass(frozen=True, config=CONFIG)
class Stage:
    """One curriculum stage, which lasts for some epochs or some steps.

    Parameters
    ----------
    epochs
        First and last epoch, counted from 1; a single number means just that epoch.
    steps
        How many steps the stage has, in place of ``epochs``.
    length
        Seconds in a training segment.
    batch_multiplier
        Times ``batch_size`` gives the stage's batch.
    """

    length: Above0
    epochs: Annotated[tuple[Count, Count], _Ordered, BeforeValidator(_first_and_last)] | None = None
    steps: Count | None = None
    batch_multiplier: Above0 = 1.0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("a stage has either epochs or steps, one of the two")


@dataclass(frozen=True, config=CONFIG)
class Source:
    """One of several places that training data comes from.

    Parameters
    ----------
    path
        Folder of audio or of shards, or a pattern of shards.
    weight
        How many times an epoch takes each of its recordings; a fraction takes some of them.
    """

    path: str
    weight: Above0 = 1.0


def _source(entry: object) -> object:
    return {"path": entry} if isinstance(entry, str) else entry


def _shape(value: Any) -> SnacConfig | None:
    if value is None or isinstance(value, SnacConfig):
        return value
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return SnacConfig.from_dict(value)


def _kind(value: object) -> str:
    return "<path>" if isinstance(value, str) else "<list>"


_Sources = Annotated[tuple[Annotated[Source, BeforeValidator(_source)], ...], Field(min_length=1)]
TrainData = Annotated[
    Annotated[str, Tag("<path>")] | Annotated[_Sources, Tag("<list>")], Discriminator(_kind)
]
Shape = Annotated[
    SnacConfig | None,
    PlainValidator(_shape),
    PlainSerializer(lambda shape: shape and shape.to_dict()),
]
Curriculum = Annotated[
    tuple[Stage, ...], BeforeValidator(lambda value: () if value is None else value)
]
Quality = Literal["log_mel", "si_sdr", "stoi"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)
"""Figures of a reconstruction beside its recording that are no term of the loss."""

RISING = ("si_sdr", "stoi")
"""Those of `QUALITIES` that are better when higher."""

GateMetrics = tuple[Quality, ...]
BestMetric = Literal["loss", "l1", "stft", "mel", "log_mel", "si_sdr", "stoi"]
SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
