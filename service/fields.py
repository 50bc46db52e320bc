"""Fields that HTTP and WebSocket messages share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import Field

_LAYOUT = "hierarchical, flat, orpheus or mini-omni, with or without a version."

LayoutName = Annotated[str, Query(max_length=64, description=_LAYOUT)]
"""A query parameter."""

LayoutField = Annotated[str, Field(max_length=64, description=_LAYOUT)]
"""A field of a message."""

Base = Annotated[
    int | None, Query(ge=0, lt=2**31, description="Token ID of code 0, for layouts that have one.")
]

ChannelName = Annotated[
    str,
    Query(
        pattern="^(average|loudest|[0-9]{1,2})$",
        description="Which channel is read: the average of all, one by its index from 0, or the "
        "loudest.",
    ),
]
"""A query parameter."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
