"""What goes wrong before or during training, said once, with no stack trace for the user."""

from __future__ import annotations

from snac_core.errors import SnacError


class TrainerError(SnacError):
    """A configuration, data set or run that cannot be used as it is."""
