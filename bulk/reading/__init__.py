"""Reading: from clips of a plan to audio for a codec. Imports no torch."""

from __future__ import annotations

from bulk.reading.reader import GroupReader, ReadOptions, read_group

__all__ = ["GroupReader", "ReadOptions", "read_group"]
