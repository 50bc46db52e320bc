"""Print the CPU kernels that a process finds, or why it has none: find_kernels.py auto|on|off."""

from __future__ import annotations

import sys
from typing import get_args

from snac_core.errors import KernelsError
from snac_core.kernels import cpu
from snac_core.types import Compile

if __name__ == "__main__":
    (wanted,) = (mode for mode in get_args(Compile) if mode == sys.argv[1])
    try:
        sys.stdout.write(f"{cpu.kernels(wanted)}\n")
    except KernelsError as error:
        sys.stdout.write(f"refused: {error}\n")
