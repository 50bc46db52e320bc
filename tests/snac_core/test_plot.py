"""`snac-codec plot`: pictures of recordings and of codes."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile

from snac_core.cli import main
from snac_core.store import ModelStore
from tests.support.models import TINY, random_model

RATE = TINY.sampling_rate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = ModelStore(tmp_path_factory.mktemp("models"))
    store.publish(TINY, random_model(TINY).state_dict())
    return str(store.root)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A second of silence, then a second of a tone of 3 kHz."""
    tone = 0.5 * np.sin(2 * np.pi * 3000 * np.arange(RATE) / RATE)
    path = tmp_path / "voice.wav"
    soundfile.write(path, np.concatenate([np.zeros(RATE), tone]), RATE)
    return path


def test_the_picture_shows_the_sound_at_its_time(
    model: str, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = recording.with_suffix(".png")
    assert main(["plot", str(recording), "--output", str(target), "--model", model]) == 0
    assert capsys.readouterr().out == f"{recording} -> {target}: 2.00 s, 168 tokens\n"
    picture = matplotlib.image.imread(target)[..., :3]
    height, width = picture.shape[:2]
    # Of the waveform's blue, nearly all is in the second half, where the tone is.
    blue = np.abs(picture[: height // 4] - np.array([31, 119, 180]) / 255).max(axis=2) < 0.05
    quiet, loud = blue[:, : width // 2].sum(), blue[:, width // 2 :].sum()
    assert loud > 10 * quiet
    # The tokens' row is coloured all over its length.
    row = picture[height * 7 // 10, width // 10 : width * 85 // 100]
    assert np.ptp(row, axis=1).min() > 0.1


def test_codes_are_drawn_as_they_decode(model: str, recording: Path) -> None:
    codes, target = recording.with_suffix(".npz"), recording.with_suffix(".svg")
    assert main(["encode", str(recording), "--output", str(codes), "--model", model]) == 0
    assert main(["plot", str(codes), "--output", str(target), "--model", model]) == 0
    assert "<svg" in target.read_text("utf-8")


def test_one_line_says_which_extra_is_missing(
    model: str,
    recording: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["plot", str(recording), "--output", "x.png", "--model", model]) == 1
    assert capsys.readouterr().err == (
        f"snac-codec: error: {recording}: plots need matplotlib: "
        "pip install 'snac-tokenizer[train]'\n"
    )
