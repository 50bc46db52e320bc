"""The fine-tuning example, on three speakers of a few seconds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "finetune_dialect" / "finetune.sh"


@pytest.mark.slow
def test_every_step_is_done(voice: Path, tmp_path: Path) -> None:
    for speaker in ("amal", "basma", "dalia"):
        folder = tmp_path / "recordings" / speaker
        folder.mkdir(parents=True)
        shutil.copy(voice, folder / f"{speaker}.wav")
    work = tmp_path / "work"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shorter = ["--set", "num_epochs=1", "--set", 'curriculum=[{"epochs": 1, "length": 0.5}]']
    done = subprocess.run(
        [str(SCRIPT), str(tmp_path / "recordings"), str(work), *shorter, "--device", "cpu"],
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    base, tuned = (line for line in done.stdout.splitlines() if line.startswith("token space"))
    assert base == tuned
    assert "Spectrogram" in (work / "report" / "report.html").read_text("utf-8")
    figures = json.loads((work / "report" / "evaluation_results.json").read_text("utf-8"))
    assert "finetuned" in json.dumps(figures)
