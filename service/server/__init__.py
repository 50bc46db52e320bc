"""The process: uvicorn, protocols and worker processes."""

from __future__ import annotations
