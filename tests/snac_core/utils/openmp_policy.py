"""Print OpenMP's policy as torch would find it while a module is imported.

python -m tests.snac_core.utils.openmp_policy MODULE
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]
    with contextlib.suppress(ImportError):
        importlib.import_module(sys.argv[1])
    sys.stdout.write(str(os.environ.get("OMP_WAIT_POLICY")))
