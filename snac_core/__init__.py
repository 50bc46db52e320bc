"""SNAC audio tokens: speech to hierarchical codes and back.

>>> codec = snac_core.load("starter")
>>> codes = codec.encode([samples])
>>> audio = codec.decode(codes)

Names are imported when they are first used, so that what needs no network, such as
`snac_core.audio` and `snac_core.layouts`, does not wait for torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

    __version__: str

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

_MODULES = {
    "Codec": "codec",
    "Codes": "codes",
    "SnacConfig": "config",
    "SNAC": "model",
    "ModelStore": "store",
    "load": "store",
}
"""Where each name is that does not come from ``errors``."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("snac-tokenizer")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"snac_core.{_MODULES.get(name, 'errors')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
