"""Files, memory and incremental work: what knows nothing of audio."""

from __future__ import annotations
