"""Print what ``pyproject.toml`` requires, one requirement a line, with the extras named.

An image installs this list before it copies the code, so that a change of code does not
install everything again: ``python requirements.py train > requirements.txt``.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Return the base requirements and those of ``extras``, as written in ``pyproject``."""
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    names: list[str] = list(project["dependencies"])
    for extra in extras:
        names += project["optional-dependencies"][extra]
    return names


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path("pyproject.toml"), sys.argv[1:])) + "\n")
