"""Encoder and quantizer learn from spectra alone."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import snac_core
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.store import checkpoint
from snac_core.store.weights import build
from tests.support.models import TINY, random_model
from tests.trainer.conftest import levels_of
from trainer import config as configuration
from trainer.cli import main
from trainer.errors import TrainerError
from trainer.model.decoder_input import fit_decoder_input
from trainer.model.spectrogram_reader import SpectrogramReader
from trainer.runtime.checkpointing import Writer
from trainer.runtime.distributed import World
from trainer.runtime.stopping import StopRequest
from trainer.training.pretraining import LATEST, RESULT, Pretraining, pretrain, with_unit_directions

CPU = torch.device("cpu")


class StopAfter(StopRequest):
    """Asks a run to stop before it reads its batch ``count``, counted from 0."""

    def __init__(self, count: int) -> None:
        self._left, self.save_requested = count + 1, False

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self._left -= 1
        return self._left <= 0


@pytest.fixture
def changes(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        **settings,
        **{"freeze_encoder": False, "freeze_vq": False, "max_steps": 6, "batch_size": 3},
        **{"num_epochs": 9, "codebook_decay": 0.9, "revive_codes_every": 2, "log_every": 1},
    }


def test_the_encoder_learns_and_the_decoder_stays(
    changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configuration.parse({**changes, "max_steps": 60, "num_epochs": 99})
    with caplog.at_level(logging.INFO):
        path = pretrain(config, CPU)
    errors = [float(one) for one in re.findall(r"mel (\d+\.\d+), continuous", caplog.text)]
    assert len(errors) == 60
    assert sum(errors[-5:]) < 0.7 * sum(errors[:5])
    assert "validation: mel" in caplog.text
    base = checkpoint.read(str(changes["pretrained_model"])).weights
    made = checkpoint.read(path).weights
    decoder = {name for name in made if name.startswith("decoder")}
    fitted = {name for name in decoder if re.match(r"decoder\.model\.[01]\.", name)}
    assert all(torch.equal(made[name], base[name]) for name in decoder - fitted)
    assert not any(torch.equal(made[name], base[name]) for name in fitted)
    moved = {name for name in set(made) - decoder if not torch.equal(made[name], base[name])}
    assert any(name.startswith("encoder") for name in moved)
    assert {f"quantizer.quantizers.{i}.codebook.weight" for i in range(3)} <= moved
    assert snac_core.load(path, "cpu").sample_rate == TINY.sampling_rate


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    whole = pretrain(configuration.parse({**changes, "output_dir": str(tmp_path / "a")}), CPU)
    halves = configuration.parse({**changes, "output_dir": str(tmp_path / "b")})
    with Writer() as writer:
        Pretraining(halves, World(CPU), writer).train(StopAfter(4))
    assert torch.load(tmp_path / "b" / LATEST, weights_only=True)["run"]["step"] == 4
    other = {**changes, "output_dir": str(tmp_path / "b"), "commitment_weight": 9.0}
    with pytest.raises(TrainerError, match=r"other settings \(commitment_weight 0.25 -> 9.0\)"):
        pretrain(configuration.parse(other), CPU)
    rest = pretrain(halves, CPU)
    one, two = checkpoint.read(whole).weights, checkpoint.read(rest).weights
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_command_and_what_it_refuses(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**changes, "max_steps": 1}))
    assert main(["pretrain", "--config", str(path), "--device", "cpu"]) == 0
    assert RESULT in capsys.readouterr().out
    with pytest.raises(TrainerError, match="neither may be frozen"):
        pretrain(configuration.parse({**changes, "freeze_encoder": True}), CPU)


def test_directions_of_length_one_leave_every_weight_as_it_is() -> None:
    model = random_model(TINY)
    before = [level.out_proj.weight.clone() for level in levels_of(model)]
    with_unit_directions(model)
    for level, weight in zip(levels_of(model), before, strict=True):
        torch.testing.assert_close(level.out_proj.weight, weight)
        direction = level.out_proj.parametrizations.weight.original1
        torch.testing.assert_close(direction.norm(dim=(1, 2)), torch.ones(len(direction)))


@pytest.mark.parametrize("depthwise", [True, False])
def test_a_decoder_finds_its_latent_in_one_whose_channels_were_turned(depthwise: bool) -> None:
    # One level: of several, the finer ones would get another residual and choose other codes.
    config = dataclasses.replace(TINY, depthwise=depthwise, vq_strides=(1,))
    before = random_model(config)
    wide = cast(nn.Conv1d, before.decoder.model[0])
    with torch.no_grad():
        # Of each latent alone, as the fit is.
        wide.weight = F.pad(wide.weight[..., 3:4], (3, 3))
    model = build(config, before.state_dict())
    for level in levels_of(model):
        for name in ("original0", "original1"):
            part = level.out_proj.parametrizations.weight.get_parameter(name)
            part.data = part.data.flip(0)
        assert level.out_proj.bias is not None
        level.out_proj.bias.data = level.out_proj.bias.data.flip(0)
    torch.manual_seed(0)
    batches = [0.1 * torch.randn(4, 1, 64 * config.pad_multiple) for _ in range(4)]
    audio = 0.1 * torch.randn(1, 1, 64 * config.pad_multiple)

    def left_over() -> float:
        """How far the first layer is from what it made of the old latent, over its variance."""
        one, other = (first_layer(each, audio) for each in (model, before))
        return float((one - other).square().mean() / other.var())

    with torch.no_grad():
        assert left_over() > 0.2
        assert fit_decoder_input(model, before, batches) > 0.98
        assert left_over() < 0.02


def first_layer(model: SNAC, audio: torch.Tensor) -> torch.Tensor:
    """Return what the decoder's first layer makes of ``audio``; its first two, if depthwise."""
    x: torch.Tensor = model.quantizer(model.encoder(audio, BatchContext(audio.shape[-1])))[0]
    for layer in list(model.decoder.model)[: 2 if model.config.depthwise else 1]:
        x = layer(x)
    return x


def test_padding_counts_for_nothing() -> None:
    torch.manual_seed(0)
    reader = SpectrogramReader(TINY)
    latent = torch.randn(1, TINY.latent_channels, 8)
    target = torch.randn(1, 320, 8)
    own = torch.tensor([[[1.0] * 5 + [0.0] * 3]])
    other = target.clone()
    other[..., 5:] += 9.0
    assert torch.equal(reader.distance(latent, target, own), reader.distance(latent, other, own))
    audio = 0.1 * torch.randn(2, 1, 8 * TINY.hop)
    assert reader.target(audio).shape == (2, 320, 8)
