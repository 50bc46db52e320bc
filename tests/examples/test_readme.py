"""The uses in the README are run, in the order of the page, against one service.

They run as they stand, but for the service's port and for training, which is one short epoch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
Run = Callable[[str], str]

SHORTER = (
    """--set num_epochs=1 --set num_workers=0 --set 'curriculum=[{"epochs": 1, "length": 0.5}]'"""
)

# Ray gives its workers the lowest priority, with which they never start beside other tests.
PATIENT = {"RAY_worker_niceness": "0"}


def blocks(heading: str) -> list[tuple[str, str]]:
    """Return language and text of each block of code below ``heading``."""
    section = re.search(rf"^### {heading}\n(.*?)^##", README, re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    found = re.findall(r"```(sh|python)\n(.*?)```", section[1], re.DOTALL)
    assert found, heading
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, voice: Path) -> Path:
    """A folder in which the commands find what they name."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("docker", "examples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "recordings").mkdir()
    for name in ("one", "two", "three"):
        shutil.copy(voice, folder / "recordings" / f"{name}.wav")
    return folder


@pytest.fixture
def run(checkout: Path, service_port: int) -> Run:
    """Run the blocks below a heading, with the service's port, and return what they print."""

    def run(heading: str) -> str:
        printed = ""
        for language, text in blocks(heading):
            program = text.replace("127.0.0.1:8000", f"127.0.0.1:{service_port}")
            program = program.replace("--set publish_to", f"{SHORTER} --set publish_to")
            command = ["sh", "-ec"] if language == "sh" else [sys.executable, "-c"]
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            done = subprocess.run(
                [*command, program],
                cwd=checkout,
                env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **PATIENT},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            assert done.returncode == 0, program
            printed += done.stdout
        return printed

    return run


def test_over_http(run: Run, checkout: Path) -> None:
    run("Over HTTP")
    codes = json.loads((checkout / "codes.json").read_text())
    back = soundfile.info(checkout / "back.wav")
    assert codes["num_samples"] == back.frames
    assert [len(level) for level in codes["codes"]] == [
        n * len(codes["codes"][0]) for n in (1, 2, 4)
    ]


def test_behind_a_language_model(run: Run, checkout: Path) -> None:
    pieces = [int(line.split()[0]) for line in run("Behind a language model").splitlines()]
    assert len(pieces) > 1
    assert sum(pieces) >= soundfile.info(checkout / "examples/voice.wav").duration * 24000


def test_a_corpus(run: Run, checkout: Path) -> None:
    printed = run("A corpus")
    assert "encoded 3 clips" in printed
    assert (
        sum(pq.read_metadata(rows).num_rows for rows in (checkout / "tokens").glob("tokens-*")) == 3
    )


def test_fine_tuning(run: Run, checkout: Path) -> None:
    printed = run("Fine-tuning")
    assert "| all | finetuned |" in printed
    assert (checkout / "report/report.html").exists()
    assert (checkout / "runs/finetune/best_model.pt").exists()
