from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["service.cli", "snac_core.cli", "trainer.cli", "bulk.cli"])
def test_threads_of_every_command_sleep_while_they_wait(command: str) -> None:
    environment = {name: os.environ[name] for name in os.environ if name != "OMP_WAIT_POLICY"}
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-m", "tests.snac_core.utils.openmp_policy", command],
            env=environment | given,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [expected], done.stderr
