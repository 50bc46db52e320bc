"""Read a long recording after a short one; print its bytes, and those that the peak grew by.

python -m tests.snac_core.audio.read_peak LONG SHORT
"""

from __future__ import annotations

import sys
from pathlib import Path

from snac_core import audio


def peak() -> int:
    """Return the most bytes that this process has had resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    audio.read(sys.argv[2], 24000)
    before = peak()
    samples = audio.read(sys.argv[1], 24000)
    sys.stdout.write(f"{samples.nbytes} {peak() - before}\n")
