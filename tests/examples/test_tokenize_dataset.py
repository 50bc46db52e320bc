"""A manifest into training lines, through the service."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import snac_core
from snac_core import audio
from snac_core.layouts import from_layout

PROGRAM = Path(__file__).parents[2] / "examples" / "tokenize_dataset" / "tokenize_dataset.py"


def tokenize(manifest: Path, output: Path, port: int) -> subprocess.CompletedProcess[str]:
    snac = f"http://127.0.0.1:{port}"
    return subprocess.run(
        [sys.executable, str(PROGRAM), str(manifest), str(output), "--snac", snac],
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_missing_is_tokenized(service_port: int, voice: Path, tmp_path: Path) -> None:
    shutil.copy(voice, tmp_path / "one.wav")
    (tmp_path / "two.wav").write_text("no audio")
    manifest, output = tmp_path / "metadata.csv", tmp_path / "train.jsonl"
    manifest.write_text("path,text\none.wav,Good morning\ntwo.wav,Good evening\n")

    done = tokenize(manifest, output, service_port)
    assert done.returncode == 1
    assert done.stderr.startswith("two.wav: 400")
    assert done.stdout.startswith("1 clips, 2.0 s of audio, 168 tokens")
    [line] = map(json.loads, output.read_text("utf-8").splitlines())
    assert (line["path"], line["text"], line["seconds"]) == ("one.wav", "Good morning", 2.0)
    codec = snac_core.load("starter", "cpu")
    [codes] = codec.encode([audio.read(voice, codec.sample_rate)])
    assert line["token_space"] == codec.token_space
    for level, expected in zip(
        from_layout(line["tokens"], "orpheus", config=codec.config), codes.levels, strict=True
    ):
        np.testing.assert_array_equal(level, expected)

    shutil.copy(voice, tmp_path / "two.wav")
    done = tokenize(manifest, output, service_port)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 clips")
    assert done.stdout.endswith("1 were done already\n")
    assert len(output.read_text("utf-8").splitlines()) == 2
