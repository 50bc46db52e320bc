"""What needs no network is imported without torch, in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import snac_core

HEAVY = ("torch", "huggingface_hub", "scipy", "pystoi", "fastapi")


@pytest.mark.parametrize(
    "module",
    ["snac_core", "snac_core.audio", "snac_core.codes", "snac_core.layouts", "snac_core.client"],
)
def test_a_light_module_loads_no_heavy_one(module: str) -> None:
    program = f"import sys, {module}; print(*({{*{HEAVY}}} & {{*sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_the_package_hands_on_every_name_that_it_lists() -> None:
    assert {getattr(snac_core, name).__name__ for name in snac_core.__all__} == {*snac_core.__all__}
    assert {*snac_core.__all__, "__version__"} <= {*dir(snac_core)}
    assert snac_core.__version__.count(".") == 2
    with pytest.raises(AttributeError, match=r"snac_core.* has no attribute 'Kodec'"):
        getattr(snac_core, "Kodec")  # noqa: B009
