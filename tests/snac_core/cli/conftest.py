"""The command on a model as small as can be, in a folder of the test's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from snac_core.cli import main
from snac_core.model import SNAC
from snac_core.store import ModelStore
from tests.support.models import TINY_8KHZ

TINY = dataclasses.replace(TINY_8KHZ, sampling_rate=16000)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    store = ModelStore(tmp_path_factory.mktemp("models"))
    store.publish(TINY, SNAC(TINY).state_dict(), metrics={"best": 0.25}, parent="nothing")
    return store.root


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_wav(path: Path, seconds: float = 0.7, sample_rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * time * (1 + time)), sample_rate)


@pytest.fixture
def run(model: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the tiny model, in this process."""

    def run(command: str, *arguments: str, ref: str | None = None) -> tuple[int, str, str]:
        reference = [] if command == "inspect" else ["--model", ref or str(model)]
        try:
            code = main(
                [command, *arguments, *reference, *(["--device", "cpu"] if reference else [])]
            )
        except SystemExit as stop:
            code = int(str(stop.code))
        out, err = capsys.readouterr()
        return code, out, err

    return run
