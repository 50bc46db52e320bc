"""Which way the folders of the trainer point at each other."""

from __future__ import annotations

import ast
from pathlib import Path

import trainer

ROOT = Path(trainer.__file__).parent

MAY_IMPORT = {
    "config": set(),
    "data": {"config"},
    "losses": {"config"},
    "preparation": {"data", "config"},
    "runtime": {"losses", "config"},
    "model": {"runtime", "config"},
    "training": {"data", "losses", "runtime", "model", "config"},
    "reporting": {"losses", "model"},
    "evaluation": {"data", "losses", "model", "reporting", "config"},
    "tokens": {"model", "reporting"},
}


def test_folders_import_only_those_before_them() -> None:
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert folders == MAY_IMPORT.keys()
    order = list(MAY_IMPORT)
    for folder, allowed in MAY_IMPORT.items():
        assert allowed <= set(order[: order.index(folder)])
        for module in (ROOT / folder).glob("*.py"):
            assert parts(module) & folders - {folder} <= allowed, module


def parts(module: Path) -> set[str]:
    """Return the parts of the trainer that a module imports, wherever in it that stands."""
    named = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            named |= {name.split(".")[1] for name in names if name.startswith("trainer.")}
    return named
