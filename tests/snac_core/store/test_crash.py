"""Processes that die while they change a store, and processes that meet in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = [sys.executable, "-m", "tests.snac_core.store.crash_child"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What readers found, by scenario."""
    top = tmp_path_factory.mktemp("stores")
    done = subprocess.run(
        [*PROGRAM, str(top)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    scenarios: dict[str, Any] = json.loads(done.stdout)
    return scenarios


@pytest.mark.parametrize(("scenario", "published"), [("publish first", 0), ("publish", 2)])
def test_a_publisher_killed_at_any_line_leaves_a_whole_store(
    found: dict[str, Any], scenario: str, published: int
) -> None:
    old = found[scenario][0]["versions"]
    assert len(old) == published
    for each in found[scenario]:
        assert each["listed"] == each["versions"]
        assert each["versions"][:published] == old
        assert len(each["versions"]) <= published + 1
        if each["current"] in old or each["current"] is None:
            assert each["previous"] == found[scenario][0]["previous"]
        else:
            assert each["current"] == each["versions"][-1]
            assert each["previous"] == found[scenario][0]["current"]
    # The kills reached every phase: before, while writing, renamed, and current.
    phases = [
        (each["unfinished"] > 0, len(each["versions"]) - published, each["current"] in old)
        for each in found[scenario]
    ]
    assert (True, 0, bool(old)) in phases
    assert (False, 1, bool(old)) in phases
    assert phases[-1] == (False, 1, False)


def test_a_roll_back_killed_at_any_line_points_somewhere(found: dict[str, Any]) -> None:
    first, second = found["roll back"][0]["versions"]
    pointers = [(each["current"], each["previous"]) for each in found["roll back"]]
    assert set(pointers) == {(second, first), (first, second)}
    assert pointers[-1] == (first, second)
    assert all(each["listed"] == [first, second] for each in found["roll back"])


def test_a_pruning_killed_at_any_line_removes_whole_versions(found: dict[str, Any]) -> None:
    old = found["prune"][0]["versions"]
    for each in found["prune"]:
        assert each["listed"] == each["versions"]
        assert (each["current"], each["previous"]) == (old[2], old[1])
    assert {len(each["versions"]) for each in found["prune"]} == {3, 2}


def test_publishers_that_meet_lose_nothing(found: dict[str, Any]) -> None:
    met = found["together"]
    assert len(met["versions"]) == 12
    assert met["current"] in met["versions"]
    assert met["previous"] in met["versions"]
    assert met["previous"] != met["current"]
    assert met["readings"] > 0
    assert met["unfinished"] == 0


def test_pruning_never_takes_a_version_that_is_being_published(found: dict[str, Any]) -> None:
    assert 2 <= found["against pruning"]["versions"] <= 4
