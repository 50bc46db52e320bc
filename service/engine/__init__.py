"""The engine thread, its scheduler, and the I/O threads."""

from __future__ import annotations
