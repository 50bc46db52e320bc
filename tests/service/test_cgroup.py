"""Memory limits of control groups, old and new, nested and absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import settings as service_settings
from service.cgroup import memory_limit
from service.settings import Settings


def tree(root: Path, groups: str, limits: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, **limits}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MIB = 2**20

V2 = {
    "sys/fs/cgroup/memory.max": "max\n",
    "sys/fs/cgroup/app/memory.max": f"{512 * MIB}\n",
    "sys/fs/cgroup/app/inner/memory.max": f"{700 * MIB}\n",
}
V1 = "3:cpu,cpuacct:/docker/a\n2:memory:/docker/a\n"


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/app/inner\n", V2, 512 * MIB),
        ("0::/\n", {"sys/fs/cgroup/memory.max": f"{300 * MIB}\n"}, 300 * MIB),
        # A container's group of the first version is mounted as the root.
        (V1, {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{256 * MIB}\n"}, 256 * MIB),
    ],
    ids=["nested", "container", "version 1"],
)
def test_the_smallest_limit_counts(
    groups: str, limits: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert memory_limit(tree(tmp_path, groups, limits)) == expected


def test_without_a_limit_the_machines_memory_counts(tmp_path: Path) -> None:
    whole = memory_limit(tmp_path)
    assert whole is not None
    assert whole > 2**27
    unlimited = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}
    assert memory_limit(tree(tmp_path, V1, unlimited)) == whole


def test_requests_hold_half_of_what_the_process_leaves_unless_it_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_settings, "memory_limit", lambda: 512 * MIB)
    assert Settings().held_bytes == 64 * MIB
    assert Settings(max_held_bytes=2**40).held_bytes == 2**40
    monkeypatch.setenv("SNAC_MAX_HELD_BYTES", str(200 * MIB))
    assert Settings().held_bytes == 200 * MIB
