"""Reading: from clips of a plan to audio for a codec. Imports no torch."""

from __future__ import annotations

from bulk.reading.reader import ReadOptions, read_group

__all__ = ["ReadOptions", "read_group"]
