"""Voices to train on, and a model to start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from snac_core.model import SNAC
from snac_core.model.quantizer import VectorQuantize
from snac_core.store import ModelStore
from tests.support.models import TINY, random_model
from trainer import config as configuration
from trainer.training.loop import train

RATE = TINY.sampling_rate


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    # A model this small loses more by threads than it gains, and very much on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def voice(seconds: float, seed: int, rate: int = RATE) -> npt.NDArray[np.float32]:
    """Return harmonics of a gliding pitch that swell four times a second, with some breath."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = random.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(0.5, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 12))
    swell = 0.6 - 0.4 * np.cos(8 * np.pi * time)
    samples = 0.1 * swell * (harmonics + 0.1 * random.standard_normal(len(time)))
    return samples.astype(np.float32)


def record(path: Path, seconds: float, seed: int, rate: int = RATE, channels: int = 1) -> Path:
    """Write a voice to ``path`` in the format that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.stack([voice(seconds, seed + one, rate) for one in range(channels)], axis=1)
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers with three recordings each, of several formats, rates and lengths."""
    folder = tmp_path_factory.mktemp("recordings")
    for number, name in enumerate(("anna", "ben", "cleo", "dan")):
        record(folder / f"{name}_1.wav", 1.2, 10 * number)
        record(folder / f"{name}_2.flac", 0.8, 10 * number + 1, rate=16000)
        record(folder / f"{name}_3.wav", 0.3, 10 * number + 2, rate=48000, channels=2)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A model store whose current version is a tiny model with random weights."""
    store = ModelStore(tmp_path_factory.mktemp("base"))
    store.publish(TINY, random_model(TINY).state_dict())
    return store


def levels_of(model: SNAC) -> list[VectorQuantize]:
    """Return the quantizer's levels, coarse to fine."""
    return [cast(VectorQuantize, level) for level in model.quantizer.quantizers]


def few_steps(recordings: Path, base: ModelStore, output: Path) -> dict[str, Any]:
    """Return a configuration that fine-tunes the decoder for a few steps."""
    return {
        "pretrained_model": str(base.root),
        "train_data": str(recordings),
        "val_data": str(recordings),
        "output_dir": str(output),
        "batch_size": 2,
        "num_epochs": 1,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "num_workers": 0,
        "segment_length": 0.17,
        "val_segments": 4,
        "sample_clips": 0,
        "n_ffts": [256, 512],
        "freeze_encoder": True,
        "freeze_vq": True,
    }


def everything_at_once() -> dict[str, Any]:
    """Return changes to `few_steps` in which all that a step can depend on takes part."""
    return {
        "pretrained_model": None,
        "model": TINY.to_dict(),
        "freeze_encoder": False,
        "freeze_vq": False,
        "batch_size": 3,
        "num_epochs": 2,
        "max_steps": 13,
        "curriculum": [
            {"epochs": 1, "length": 0.17, "batch_multiplier": 2.0},
            {"epochs": 2, "length": 0.34},
        ],
        "warmup_steps": 5,
        "mel_weight": 1.0,
        "commitment_weight": 0.25,
        "codebook_weight": 0.0,
        "codebook_decay": 0.8,
        "revive_codes_every": 3,
        "ema_decay": 0.9,
        "grad_clip": 1.0,
        "adversarial_weight": 1.0,
        "feature_weight": 2.0,
        "discriminator_periods": [2],
        "discriminator_period_channels": [4, 8],
        "discriminator_n_ffts": [256],
        "discriminator_fft_channels": 2,
        "discriminator_warmup_steps": 1,
        "sample_clips": 1,
        "log_every": 1,
    }


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the model in a checkpoint."""
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return found


@pytest.fixture
def settings(tmp_path: Path, recordings: Path, base: ModelStore) -> dict[str, Any]:
    """A configuration that fine-tunes the decoder for a few steps."""
    return few_steps(recordings, base, tmp_path / "run")


@pytest.fixture(scope="session")
def trained(
    recordings: Path, base: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The configuration of a run with two stages that has ended; it is not to be changed."""
    curriculum = [
        {"epochs": 1, "length": 0.17, "batch_multiplier": 4.0},
        {"epochs": 2, "length": 0.34, "batch_multiplier": 2.0},
    ]
    changes = {"num_epochs": 2, "max_steps": 12, "curriculum": curriculum, "save_every": 1}
    changes["sample_clips"] = 4
    settings = few_steps(recordings, base, tmp_path_factory.mktemp("trained")) | changes
    train(configuration.parse(settings), torch.device("cpu"))
    return settings
