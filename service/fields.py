"""Fields that query parameters, forms and messages share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from snac_core.types import Incomplete

_LAYOUT = "hierarchical, flat, orpheus, orpheus-text or mini-omni, with or without a version."

LayoutField = Annotated[str, Field(max_length=64, description=_LAYOUT)]

Base = Annotated[
    int | None, Field(ge=0, lt=2**31, description="Token ID of code 0, for layouts that have one.")
]

ChannelName = Annotated[
    str,
    Field(
        pattern="^(average|loudest|[0-9]{1,2})$",
        description="Which channel is read: the average of all, one by its index from 0, or the "
        "loudest.",
    ),
]

FORMAT = "Of the audio; by default, what Accept prefers."

Seed = Annotated[int, Field(ge=0, lt=2**63)]

IncompleteField = Annotated[
    Incomplete,
    Field(description="What becomes of the tokens of a last frame that is not whole."),
]
