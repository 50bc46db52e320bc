"""Print the files of `snac_core` that building the kernels loads.

python -m tests.docker.loaded_by_kernels
"""

from __future__ import annotations

import sys

import snac_core.kernels.build  # noqa: F401 - what it loads is looked at

if __name__ == "__main__":
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "snac_core":
            sys.stdout.write(f"{module.__file__}\n")
