"""The server process: uvicorn, its protocols and worker processes."""

from __future__ import annotations
