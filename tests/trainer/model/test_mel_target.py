"""A model from random weights starts with features of speech for its latent."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snac_core.config import SnacConfig
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.store import ModelStore
from tests.trainer.commands import rows
from tests.trainer.conftest import few_steps, voice, weights
from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.model.initialisation import scale_to
from trainer.model.mel_target import MelTarget, fit
from trainer.model.network import starting_model
from trainer.training.dry_run import plan
from trainer.training.loop import train

SMALL = SnacConfig(encoder_dim=8, decoder_dim=32, codebook_size=32)


def speech(seconds: float = 4.0) -> Tensor:
    samples = SMALL.padded_samples(round(seconds * SMALL.sampling_rate))
    parts = [voice(samples / SMALL.sampling_rate, seed=seed)[:samples] for seed in range(4)]
    return torch.stack([torch.as_tensor(part, dtype=torch.float32) for part in parts])[:, None]


@pytest.fixture(scope="module")
def fitted() -> tuple[SNAC, MelTarget, Tensor]:
    torch.manual_seed(0)
    model, audio = SNAC(SMALL), speech()
    mel_target = MelTarget(SMALL)
    fit(mel_target, model.quantizer, [audio])
    return model, mel_target, audio


def test_features_are_centred_and_scaled(fitted: tuple[SNAC, MelTarget, Tensor]) -> None:
    _, mel_target, audio = fitted
    features = mel_target(audio)
    assert features.shape == (4, SMALL.latent_channels, audio.shape[-1] // SMALL.hop)
    own = features[:, : mel_target.bins]
    assert own.mean(dim=(0, 2)).abs().max() < 1e-4
    assert float(own.square().mean()) == pytest.approx(1.0, abs=1e-3)


@torch.no_grad()
def test_every_level_explains_more_of_the_features(fitted: tuple[SNAC, MelTarget, Tensor]) -> None:
    model, mel_target, audio = fitted
    features = mel_target(audio)
    left, residual = [float(features.square().mean())], features
    for level in model.quantizer.quantizers:
        residual = residual - level(residual)[0]
        left.append(float(residual.square().mean()))
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.5 * left[0]
    _, levels = model.quantizer(features)
    assert all(len(level.codes.unique()) > 16 for level in levels)


def test_too_little_speech_is_an_error() -> None:
    few = speech(0.5)
    with pytest.raises(TrainerError, match="latents are too few for a codebook of 4096"):
        fit(MelTarget(SMALL), SNAC(SnacConfig(encoder_dim=8, decoder_dim=32)).quantizer, [few])


def test_layers_start_at_a_known_scale(fitted: tuple[SNAC, MelTarget, Tensor]) -> None:
    made, mel_target, audio = fitted
    model = copy.deepcopy(made)
    scale_to(model, audio, mel_target)
    seen: dict[str, float] = {}

    def note(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, out: Tensor) -> None:
            seen[name] = float(out.std())

        return hook

    hooks = [
        layer.register_forward_hook(note(name))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv1d) and name.startswith("encoder")
    ]
    with torch.no_grad():
        latent = model.encoder(audio, BatchContext(audio.shape[-1]))
    for hook in hooks:
        hook.remove()
    inner = [std for name, std in seen.items() if ".block.3" not in name]
    assert float(latent.std()) == pytest.approx(1.0, abs=0.05)
    assert inner
    assert all(0.9 < std < 1.1 for std in inner), seen


@torch.no_grad()
def test_channels_without_a_feature_stay_silent(fitted: tuple[SNAC, MelTarget, Tensor]) -> None:
    made, mel_target, audio = fitted
    model = copy.deepcopy(made)
    assert mel_target.channels > mel_target.bins
    scale_to(model, audio, mel_target)
    first = model.decoder.model[0]
    assert isinstance(first, nn.Conv1d)
    sizes = first.weight.flatten(1).norm(dim=1)
    # What flows back to the latent is as large as these.
    assert sizes[mel_target.bins :].max() < 20 * sizes[: mel_target.bins].median()


def test_a_guided_run_learns_features_and_leaves_the_quantizer(
    recordings: Path, base: ModelStore, tmp_path: Path
) -> None:
    changes = {
        "pretrained_model": None,
        "model": SMALL.to_dict(),
        "freeze_encoder": False,
        "freeze_vq": False,
        "segment_length": 0.34,
        "max_steps": 12,
        "num_epochs": 20,
        "guided_steps": 8,
        "log_every": 1,
    }
    config = configuration.parse(few_steps(recordings, base, tmp_path) | changes)
    best = train(config, torch.device("cpu"))
    guide = [float(row["guide"]) for row in rows(best.parent) if row["split"] == "train"]
    assert len(guide) == 12
    assert sum(guide[-3:]) < sum(guide[:3])
    untrained = starting_model(config)[0].state_dict()
    trained = weights(best)
    name = "quantizer.quantizers.0.codebook.weight"
    assert not torch.equal(trained[name], untrained[name])
    (last,) = best.parent.glob("checkpoint_epoch*.pt")
    assert torch.equal(trained[name], weights(last)[name])


def test_too_little_audio_for_a_guided_start_is_told_before_anything_is_touched(
    recordings: Path, base: ModelStore, tmp_path: Path
) -> None:
    changes = {
        **{"pretrained_model": None, "model": {**SMALL.to_dict(), "codebook_size": 4096}},
        **{"freeze_encoder": False, "freeze_vq": False, "guided_steps": 8},
        "output_dir": str(tmp_path / "run"),
    }
    config = configuration.parse(few_steps(recordings, base, tmp_path) | changes)
    said = "too few for a codebook of 4096 entries; train on at least 350 s for each process"
    with pytest.raises(TrainerError, match=said):
        plan(config)
    with pytest.raises(TrainerError, match=said):
        train(config, torch.device("cpu"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"guided_steps": 5}, "it is for a model from random weights"),
        (
            {"guided_steps": 5, "pretrained_model": None, "model": SMALL.to_dict()}
            | {"freeze_vq": False, "freeze_encoder": False, "loss_balancer": True},
            "none of loss_balancer, freeze_encoder and freeze_vq",
        ),
        (
            {"guided_steps": 5, "pretrained_model": None, "model": SMALL.to_dict()}
            | {"freeze_vq": False, "freeze_encoder": False, "bucket_by_length": True},
            "does not go with bucket_by_length",
        ),
    ],
)
def test_what_a_guide_does_not_go_with(
    recordings: Path, base: ModelStore, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainerError, match=said):
        configuration.parse(few_steps(recordings, base, tmp_path) | changes)
