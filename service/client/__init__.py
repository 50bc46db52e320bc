"""The Python client, which is `snac_core.client`."""

from __future__ import annotations

from snac_core.client import *  # noqa: F403
from snac_core.client import __all__ as __all__
