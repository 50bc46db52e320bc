"""The service's command with a model store that is as slow as a hung network file system.

Run as a program. The store's pointer can be read once the file that ``STORE_ANSWERS`` in the
environment names exists.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from service import cli
from snac_core.store import ModelStore

current = ModelStore.current


def slow_current(self: ModelStore) -> str | None:
    """Return the current version, once the store answers."""
    while not Path(os.environ["STORE_ANSWERS"]).exists():
        time.sleep(0.02)
    return current(self)


ModelStore.current = slow_current  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(cli.main())
