"""Name a hundred recordings as unreadable that every process names, and one of its own.

python -m tests.trainer.data.name_unreadable FILE NUMBER
"""

from __future__ import annotations

import sys
from pathlib import Path

from trainer.data.unreadable import Unreadable

if __name__ == "__main__":
    unreadable = Unreadable(Path(sys.argv[1]))
    for number in range(100):
        unreadable.add(f"{number}.wav", f"broken,\n in two lines {number}")
    unreadable.add(f"own {sys.argv[2]}", "its own")
