"""Outputs: rows, the files they are in, and the ledger that makes each count once."""

from __future__ import annotations

from bulk.output.card import card
from bulk.output.folder import CARD, ERRORS, Output
from bulk.output.formats import FORMATS
from bulk.output.ledger import has_rows
from bulk.output.locking import locked
from bulk.output.rows import DONE, FAILED, LEFT_OUT, RowOptions, RowWriter, failed_ledger
from bulk.output.writer import ShardWriter, Written

__all__ = [
    "CARD",
    "DONE",
    "ERRORS",
    "FAILED",
    "FORMATS",
    "LEFT_OUT",
    "Output",
    "RowOptions",
    "RowWriter",
    "ShardWriter",
    "Written",
    "card",
    "failed_ledger",
    "has_rows",
    "locked",
]
