"""``python -m snac_core.cli`` is ``snac-codec``."""

from __future__ import annotations

import sys

from snac_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
