"""The service object, its life cycle, its streams and its peer processes."""

from __future__ import annotations
