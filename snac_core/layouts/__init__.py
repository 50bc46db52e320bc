"""Token layouts of speech language models: whole clips, and token by token."""

from __future__ import annotations

from snac_core.layouts.clips import LAYOUTS, Layout, find_layout, from_layout, to_layout
from snac_core.layouts.reader import token_reader
from snac_core.layouts.writer import token_writer

__all__ = [
    "LAYOUTS",
    "Layout",
    "find_layout",
    "from_layout",
    "to_layout",
    "token_reader",
    "token_writer",
]
