"""Streams over WebSocket."""

from __future__ import annotations
