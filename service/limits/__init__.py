"""What a client may use: bytes, memory, rates and time."""

from __future__ import annotations
