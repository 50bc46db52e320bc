"""What stops a run; all are `SnacError`, so that a caller catches one.

SnacError
└── BulkError
    ├── SourceError         an input that is not what it is said to be
    ├── OutputError         an output folder that cannot be used for this run
    └── TooManyErrorsError  more clips failed than --max-errors allows
"""

from __future__ import annotations

from snac_core.errors import SnacError


class BulkError(SnacError):
    """Base of what stops a run."""


class SourceError(BulkError):
    """An input that cannot be listed, or is not what it is said to be."""


class OutputError(BulkError):
    """An output folder that cannot be used for this run."""


class TooManyErrorsError(BulkError):
    """More clips failed than the run allows."""
