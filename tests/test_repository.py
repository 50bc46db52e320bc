"""Rules of the repository: import direction, pinned dependencies, what the docs may promise."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
PACKAGES = ("snac_core", "service", "trainer", "bulk")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

MAY_IMPORT = {
    "snac_core": set(),
    "service": {"snac_core"},
    "trainer": {"snac_core"},
    "bulk": {"snac_core"},
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(module: Path) -> set[str]:
    """Return the top-level names that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_one_way(package: str) -> None:
    forbidden = {*PACKAGES, "bench", "tests"} - MAY_IMPORT[package] - {package}
    files = modules(package)
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file) & forbidden
    }
    assert not wrong


@pytest.mark.parametrize("package", [*PACKAGES, "tests", "bench", "examples"])
def test_file_length(package: str) -> None:
    lengths = {file: len(file.read_text("utf-8").splitlines()) for file in modules(package)}
    assert not {str(file): length for file, length in lengths.items() if length > 400}


def test_programs_of_tests_are_files() -> None:
    for file in modules("tests"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and str(node.value).count("\n") > 2:
                where = f"{file.relative_to(ROOT)}:{node.lineno}"
                assert not is_program(str(node.value)), f"{where} is neither linted nor typed"


def is_program(text: str) -> bool:
    """Return whether a text is Python that imports something."""
    try:
        body = ast.parse(textwrap.dedent(text)).body
    except SyntaxError:
        return False
    return any(isinstance(one, (ast.Import, ast.ImportFrom)) for one in body)


def name_of(requirement: str) -> str:
    """Return the normalised name of a requirement, without extras, bounds and markers."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_every_dependency_is_pinned_exactly() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement = line.split(";")[0].strip()
            assert re.fullmatch(r"[a-z0-9.-]+==[0-9][^=<>~!]*", requirement), line
            pins[name_of(requirement)] = requirement.split("==")[1]
    named = {name_of(one) for one in PROJECT["dependencies"]}
    for extra in PROJECT["optional-dependencies"].values():
        named |= {name_of(one) for one in extra}
    assert named <= pins.keys()
    assert "+" not in pins["torch"], "a CPU build must not be forced on GPU machines"


def test_every_import_is_a_declared_dependency() -> None:
    extras = PROJECT["optional-dependencies"]
    base = {name_of(one) for one in PROJECT["dependencies"]}
    allowed = {
        # What only the extras train and bulk call is in those.
        "snac_core": base
        | {"matplotlib", "pyarrow", "fsspec"}
        | {name_of(one) for one in extras["media"] + extras["onnx"]},
        "service": base | {name_of(one) for one in extras["tracing"] + extras["cluster"]},
        "trainer": base | {name_of(one) for one in extras["train"]},
        "bulk": base | {name_of(one) for one in (*extras["bulk"], *extras["hub"])},
    }
    # Parts of a declared package that come under another name.
    parts = {
        "starlette": "fastapi",
        "httptools": "uvicorn",
        "scipy": "pystoi",
        "opentelemetry": "opentelemetry-sdk",
        "triton": "torch",
    }
    for package, names in allowed.items():
        for file in modules(package):
            for name in imported(file) - set(sys.stdlib_module_names) - set(PACKAGES):
                owner = name_of(parts.get(name, name))
                assert owner in names, f"{file.relative_to(ROOT)} imports {name}"


def test_commands_of_the_project_start() -> None:
    for target in PROJECT["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def make_targets() -> set[str]:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        env={**os.environ, "MAKEFLAGS": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    return set(re.findall(r"^  make ([a-z-]+) ", listed.stdout, flags=re.MULTILINE))


def test_help_lists_every_target_that_a_person_may_name() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert phony is not None
    assert make_targets() == set(phony[1].split())


def commands(page: Path) -> list[str]:
    """Return the lines of the page's shell blocks."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_commands_that_exist(page: Path) -> None:
    targets, scripts = make_targets(), set(PROJECT["scripts"])
    for line in commands(page):
        for target in re.findall(r"(?:^|&& |; )(?:[A-Z_]+=\S+ )*make ([a-z-]+)", line):
            assert target in targets, line
        for script in re.findall(r"\bsnac-[a-z]+(?= |$)", line):
            assert script in scripts or "docker" in line, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_link_to_files_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_continuous_integration_runs_what_make_test_runs() -> None:
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    assert run.read_text("utf-8").rstrip().endswith("exec make test")


def test_a_wheel_carries_the_data_that_the_packages_open(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    expected = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert expected <= packed
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed
