"""Read the recording on standard input three times, and print a line before and after.

python -m tests.snac_core.audio.read_input < RECORDING
"""

from __future__ import annotations

import contextlib
import sys

from snac_core import audio
from snac_core.errors import AudioError

if __name__ == "__main__":
    data = sys.stdin.buffer.read()
    sys.stdout.write("first heard\n")
    for _ in range(3):
        with contextlib.suppress(AudioError):
            audio.read(data, 24000)
    sys.stderr.write("still heard\n")
