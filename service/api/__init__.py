"""HTTP: requests, answers and their documentation."""

from __future__ import annotations
