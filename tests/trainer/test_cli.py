from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import snac_core
from snac_core.model_store import ModelStore
from trainer.cli import main


def written(path: Path, settings: dict[str, Any], **changes: Any) -> str:
    path.write_text(json.dumps({**settings, **changes}))
    return str(path)


def test_from_recordings_to_a_published_model(
    recordings: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset, run, store = tmp_path / "dataset", tmp_path / "run", tmp_path / "store"
    prepare = ["prepare", "--input-dir", str(recordings), "--output-dir", str(dataset)]
    assert main([*prepare, "--group-by", "^[a-z]+", "--val-groups", "dan"]) == 0
    assert "9 recordings to train on, 3 to validate" in capsys.readouterr().out

    config = written(tmp_path / "config.json", settings)
    paths = [f"--set=train_data={dataset / 'train'}", f"--set=val_data={dataset / 'val'}"]
    assert main(["train", "--config", config, "--device", "cpu", *paths]) == 0
    best = run / "best_model.pt"
    assert f"best model: {best}" in capsys.readouterr().out
    assert snac_core.load(best, "cpu").sample_rate == 24000

    report = tmp_path / "reports" / "report.json"
    evaluate = ["evaluate", "--model", str(best), "--data", str(dataset / "val")]
    assert main([*evaluate, "--group-by", "^[a-z]+", "--output", str(report)]) == 0
    assert re.search(r"^\| dan \| 3 \| 2 \| ", capsys.readouterr().out, re.MULTILINE)
    assert json.loads(report.read_text())["groups"]["dan"]["recordings"] == 3

    publish = ["publish", "--checkpoint", str(best), "--store", str(store)]
    assert main([*publish, "--half"]) == 0
    version = ModelStore(store).current()
    assert f"published {version} to {store}" in capsys.readouterr().out
    assert snac_core.load(store, "cpu").version == version


def test_errors_are_one_line(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path / "config.json", settings)
    (tmp_path / "file").write_text("in the way")
    nowhere = str(tmp_path / "none")
    for arguments, said in (
        (["train", "--config", config, "--set", "learning_rte=1"], "did you mean 'learning_rate'"),
        (["train", "--config", config, "--set", f"train_data={nowhere}"], "is not a folder"),
        (["train", "--config", config, "--set", "pretrained_model=none.pt"], "no model 'none.pt'"),
        (["train", "--config", config, "--set", f"output_dir={tmp_path}/file"], "File exists"),
        (["train", "--config", config, "--device", "typewriter"], "no device is called"),
        (["train", "--config", config, "--device", "99"], "there is no cuda:99 here"),
        (["prepare", "--input-dir", nowhere, "--output-dir", nowhere], "is not a folder"),
        (["evaluate", "--model", nowhere, "--data", nowhere], "no model"),
        (["publish", "--checkpoint", nowhere, "--store", nowhere], "cannot be read"),
    ):
        assert main(arguments) == 1, arguments
        (line,) = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("snac-trainer")
        ]
        assert line.startswith("snac-trainer: error: ")
        assert said in line
    with pytest.raises(SystemExit) as stopped:
        main(["trane"])
    assert stopped.value.code == 2


def test_a_run_that_is_stopped_saves_what_it_has(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = written(tmp_path / "config.json", settings, max_steps=100000, num_epochs=10000)
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "train", "--config", config, "--device", "cpu"],
        # With the allocator set, the command need not start over to set it.
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.csv"
    while not (metrics.exists() and ",train," in metrics.read_text()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "snac-trainer: interrupted" in errors
    assert "Traceback" not in errors
    latest = torch.load(tmp_path / "run" / "checkpoint_latest.pt", weights_only=True)
    assert latest["step"] >= 10
    assert latest["optimizer"]["state"]
    snac_core.load(tmp_path / "run" / "checkpoint_latest.pt", "cpu")
