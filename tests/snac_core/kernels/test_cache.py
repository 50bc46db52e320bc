"""Libraries in a cache that was cut short, emptied, or cannot be written to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snac_core.errors import KernelsError
from snac_core.kernels import build, cache

STEM = "kernels-cpu-avx2-0123456789abcdef"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    built = tmp_path / "built"
    built.write_bytes(b"a library")
    return cache.keep(built, tmp_path, STEM)


def test_what_is_kept_is_found(kept: Path) -> None:
    assert cache.find(kept.parent, STEM) == kept
    assert cache.find(kept.parent, "kernels-cpu-avx512-0123456789abcdef") is None
    assert cache.find(kept.parent / "nowhere", STEM) is None


@pytest.mark.parametrize("size", [0, 5])
def test_what_was_cut_short_is_removed(kept: Path, size: int) -> None:
    os.truncate(kept, size)
    assert cache.find(kept.parent, STEM) is None
    assert not kept.exists()


def test_a_home_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert cache.user_folder() is None
    assert cache.process_folder().is_dir()


def test_a_user_without_a_name_or_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    assert cache.user_folder() is None


def test_a_library_that_was_cut_short_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        whole = build.library()
    except KernelsError as error:
        pytest.skip(str(error))
    stem = whole.name.rpartition("-")[0]
    folder = tmp_path / "snac_tokenizer"
    folder.mkdir()
    shutil.copy(whole, folder)
    os.truncate(folder / whole.name, 4096)
    rebuilt: list[Path] = []

    def link(kind: str, into: Path, source: str = "cpu") -> Path:
        copy = into / "built"
        shutil.copy(whole, copy)
        rebuilt.append(cache.keep(copy, into, stem))
        return rebuilt[-1]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if whole.parent == build._FOLDER:
        pytest.skip("the package itself has a library")
    monkeypatch.setattr(build, "build", link)
    assert build.library() == folder / whole.name
    assert rebuilt == [folder / whole.name]
    code = "from snac_core.kernels.build import load; assert load('cpu', 'on')"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
