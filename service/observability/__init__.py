"""Metrics, traces and logs."""

from __future__ import annotations
