"""SNAC audio tokens: speech to hierarchical codes and back.

>>> codec = snac_core.load("starter")
>>> codes = codec.encode([samples])
>>> audio = codec.decode(codes)
"""

from __future__ import annotations

from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.errors import (
    AudioError,
    AudioTooLongError,
    CodesError,
    ConfigError,
    LayoutError,
    ModelError,
    SnacError,
    StoreError,
    TokenSpaceError,
)
from snac_core.model import SNAC
from snac_core.store import ModelStore, load

__all__ = [
    "SNAC",
    "AudioError",
    "AudioTooLongError",
    "Codec",
    "Codes",
    "CodesError",
    "ConfigError",
    "LayoutError",
    "ModelError",
    "ModelStore",
    "SnacConfig",
    "SnacError",
    "StoreError",
    "TokenSpaceError",
    "load",
]
