"""Errors before or during training, reported in one line without a stack trace."""

from __future__ import annotations

from snac_core.errors import SnacError


class TrainerError(SnacError):
    """A configuration, data set or run that cannot be used as it is."""
