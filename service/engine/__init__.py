"""The engine thread, its queue, and threads for reading and writing."""

from __future__ import annotations
