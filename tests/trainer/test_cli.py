from __future__ import annotations

import json
import re
import subprocess
import sys
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
        (["publish", "--checkpoint", nowhere, "--store", nowhere], "no model"),
        (["publish", "--checkpoint", config, "--store", nowhere], "is no file that torch.save"),
        (["publish", "--model", "starter"], "needs --store DIR or --push OWNER/NAME"),
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


def test_any_model_can_be_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert main(["publish", "--model", "starter", "--store", str(store)]) == 0
    starter = snac_core.load("starter", "cpu")
    published = snac_core.load(store, "cpu")
    assert published.token_space == starter.token_space
    assert ModelStore(store).manifest(published.version).parent == starter.version


@pytest.mark.parametrize("command", ["trainer", "bulk"])
def test_a_command_without_its_extra_says_so_and_explains_itself(command: str) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['pyarrow', 'tensorboard', 'ray']));"
        f"from {command}.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300
        )

    for shown in ("--help", "--version"):
        done = run(shown)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith((f"usage: snac-{command}", f"snac-{command} 0."))
    folders = ["--input-dir", "in", "--output-dir", "out"]
    done = run(
        *(["prepare", *folders] if command == "trainer" else ["encode", "in", "--output", "out"])
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    extra = "train" if command == "trainer" else "bulk"
    assert line.startswith(f"snac-{command}: error: ")
    assert f"pip install 'snac-tokenizer[{extra}]'" in line
