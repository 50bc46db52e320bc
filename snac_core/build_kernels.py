"""Building `snac_core.kernels` ahead of time, for every kind of CPU that it is written for.

python -m snac_core.build_kernels [FOLDER]

Into this package's own folder, unless another is named.
"""

from __future__ import annotations

import sys
from pathlib import Path

from snac_core.kernels import KINDS, build


def main() -> None:
    """Build, and write the paths to standard output."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else __file__).absolute()
    for kind in KINDS:
        path = build(kind, folder.parent if folder.is_file() else folder)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
