"""HTTP: requests, responses and their documentation."""

from __future__ import annotations
