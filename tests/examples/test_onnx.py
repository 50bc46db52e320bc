"""The exported graphs in ONNX Runtime give the codes and the audio of the codec."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import snac_core
from snac_core import audio
from snac_core.cli import main

for name in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(name, reason=f"{name} is not installed")

PROGRAM = Path(__file__).parents[2] / "examples" / "onnx" / "onnx_codec.py"


def test_the_graphs_reconstruct_a_recording(voice: Path, tmp_path: Path) -> None:
    assert main(["export", "starter", str(tmp_path / "exported"), "--format", "onnx"]) == 0
    output = tmp_path / "back.wav"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "exported"), str(voice), str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codec = snac_core.load("starter", "cpu")
    [codes] = codec.encode([audio.read(voice, codec.sample_rate)])
    assert done.stdout.startswith(str([len(level) for level in codes.levels]))
    assert codec.token_space in done.stdout
    [expected] = codec.decode([codes], noise="off")
    back, _ = soundfile.read(output, dtype="float32")
    np.testing.assert_allclose(back, expected, atol=1e-3)
