"""The documentation as a site: it builds without a warning, and asks nobody else for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")

ROOT = Path(__file__).parents[1]
LOADED = re.compile(
    r"<(?:script|img|iframe|source|audio|video)\b[^>]*\bsrc=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|<link\b[^>]*\bhref=[\"']?((?:https?:)?//[^\"'\s>]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert not [
        (page.name, match[0])
        for page in pages
        for match in LOADED.finditer(page.read_text("utf-8"))
    ]
    sheets = [*site.rglob("*.css")]
    assert not [sheet for sheet in sheets if re.search(r"url\(.?(https?:)?//", sheet.read_text())]


def test_the_reference_says_shapes_and_errors(site: Path) -> None:
    page = (site / "reference" / "codec" / "index.html").read_text("utf-8")
    assert "[num_samples]" in page
    assert "AudioError" in page


def test_the_site_can_be_searched(site: Path) -> None:
    assert "custom_token_N" in (site / "search" / "search_index.json").read_text("utf-8")
