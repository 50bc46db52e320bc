"""The model that serves, hot reload, and warm-up."""

from __future__ import annotations
