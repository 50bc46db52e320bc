"""Which way imports point: down the floors of each package, in no circle, through faces."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {
    "snac_core": [
        "cli",
        "export",
        "plot streaming store",
        "codec",
        "inference",
        "kernels layouts quality client",
        "model codes audio",
        "config utils",
        "errors types",
    ],
    "service": [
        "cli cluster",
        "server",
        "app reference",
        "api websocket",
        "runtime",
        "models limits engine",
        "observability security",
        "settings problems concurrency",
        "keys errors fields request_state shares addresses cgroup scaling client",
    ],
    "trainer": [
        "__main__",
        "cli",
        "training evaluation tokens preparation",
        "reporting",
        "model",
        "runtime",
        "losses data",
        "config",
        "errors",
    ],
    "bulk": [
        "cli",
        "verify",
        "encode decode",
        "pipeline",
        "cluster encoder progress",
        "output",
        "plan reading",
        "sources batches",
        "filesystems",
        "errors",
    ],
}
"""The folders and modules of each package, top floor first; each imports only lower floors."""


class Import(NamedTuple):
    """One name that a module imports from another of its package."""

    importer: str
    module: str
    name: str | None


def modules(package: str) -> dict[str, Path]:
    """Return every module of a package by its dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: str) -> Iterator[Import]:
    """Yield what the modules of ``package`` import from it, wherever in them the import stands."""
    known = modules(package)
    for importer, path in known.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name in known:
                        yield Import(importer, alias.name, None)
            elif isinstance(node, ast.ImportFrom) and node.module in known:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    if whole in known:
                        yield Import(importer, whole, None)
                    else:
                        yield Import(importer, node.module, alias.name)


def unit(module: str) -> str:
    """Return the folder, or the module, directly below the package that ``module`` belongs to."""
    return module.split(".")[1] if "." in module else ""


def faces(package: str) -> dict[str, set[str]]:
    """Return the names that each folder's ``__init__.py`` hands on."""
    found = {}
    for module, path in modules(package).items():
        if path.name == "__init__.py" and module != package:
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    found[module] = set(ast.literal_eval(node.value))
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_every_folder_has_its_floor(package: str) -> None:
    listed = [name for floor in FLOORS[package] for name in floor.split()]
    assert sorted(listed) == sorted({unit(module) for module in modules(package)} - {""})


@pytest.mark.parametrize("package", FLOORS)
def test_imports_only_point_down(package: str) -> None:
    level = {name: i for i, floor in enumerate(FLOORS[package]) for name in floor.split()}
    wrong = {
        f"{one.importer} imports {one.module}"
        for one in imports(package)
        if unit(one.importer)
        and unit(one.importer) != unit(one.module)
        and not level[unit(one.importer)] < level.get(unit(one.module), 0)
    }
    assert not wrong


@pytest.mark.parametrize("package", FLOORS)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules(package)}
    for one in imports(package):
        graph[one.importer].add(one.module)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("package", FLOORS)
def test_what_a_folder_hands_on_is_taken_from_its_face(package: str) -> None:
    known = faces(package)
    wrong = {
        f"{one.importer}: from {one.module} import {one.name}, not from {face}"
        for one in imports(package)
        for face, names in known.items()
        if one.module.startswith(f"{face}.")
        and not f"{one.importer}.".startswith(f"{face}.")
        and one.name in names
    }
    assert not wrong


@pytest.mark.parametrize("package", FLOORS)
def test_nobody_imports_what_another_folder_keeps_to_itself(package: str) -> None:
    wrong = {
        f"{one.importer} imports {one.name} from {one.module}"
        for one in imports(package)
        if one.name is not None
        and one.name.startswith("_")
        and not one.name.startswith("__")
        and unit(one.importer) != unit(one.module)
    }
    assert not wrong
