"""Streams: what comes out is what decoding or encoding the whole clip gives."""

from __future__ import annotations

from snac_core.streaming.decoder import StreamingDecoder
from snac_core.streaming.encoder import StreamingEncoder
from snac_core.streaming.network import lookahead

__all__ = ["StreamingDecoder", "StreamingEncoder", "lookahead"]
