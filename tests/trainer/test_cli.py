from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import snac_core
from snac_core.store import ModelStore
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
        (["train", "--config", config, "--nproc", "0"], "--nproc must be 1 or more, not 0"),
        (["train", "--config", config, "--ddp", "--device", "cpu"], "try --nproc 2"),
        (["train", "--config", config, "--resume", nowhere], "no checkpoint"),
        (["prepare", "--input-dir", nowhere, "--output-dir", nowhere], "holds no recordings"),
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
