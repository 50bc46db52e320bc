"""What lives as long as the service: its parts, life cycle and streams."""

from __future__ import annotations
