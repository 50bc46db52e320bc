"""Inputs: which clips there are, where each is, and what is known of it."""

from __future__ import annotations

from bulk.sources.clips import PLACE, Source, carried_fields
from bulk.sources.datasets import arrow_batches
from bulk.sources.find import KINDS, Options, Several, find_source

__all__ = [
    "KINDS",
    "PLACE",
    "Options",
    "Several",
    "Source",
    "arrow_batches",
    "carried_fields",
    "find_source",
]
