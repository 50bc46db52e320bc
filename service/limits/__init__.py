"""Limits on bytes, memory, request rates and time."""

from __future__ import annotations
