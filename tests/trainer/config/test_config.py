from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snac_core.errors import ConfigError
from trainer import config as configuration
from trainer.config import Stage
from trainer.errors import TrainerError

SHIPPED = sorted((Path(configuration.__file__).parents[1] / "configs").glob("*.json"))


def test_what_is_shipped() -> None:
    names = {path.stem for path in SHIPPED}
    seed = {"phase10_revolab_all", "phase10_curriculum", "phase10_combined"}
    starter = {"starter", "starter_encoder", "starter_decoder"}
    assert names == seed | starter | {"new_dialect", "dac_recipe", "snac_paper"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_parse_and_survive_a_round_trip(path: Path) -> None:
    config = configuration.load(path)
    assert configuration.parse(config.to_dict()) == config


@pytest.mark.parametrize(
    ("name", "frozen", "eval_batch", "saving"),
    [
        ("phase10_revolab_all", True, 64, (1, 5000, 30.0)),
        ("phase10_curriculum", True, None, (2, None, 10.0)),
        ("phase10_combined", False, None, (2, 5000, 10.0)),
    ],
)
def test_the_published_recipes(
    name: str, frozen: bool, eval_batch: int | None, saving: tuple[Any, ...]
) -> None:
    config = configuration.load(
        Path(configuration.__file__).parents[1] / "configs" / f"{name}.json"
    )
    assert config.pretrained_model == "hubertsiuzdak/snac_24khz"
    assert (config.freeze_encoder, config.freeze_vq) == (frozen, frozen)
    assert config.eval_batch_size == eval_batch
    assert (config.save_every, config.save_every_batches, config.save_every_minutes) == saving
    assert (config.num_epochs, config.learning_rate, config.weight_decay) == (10, 15e-6, 1e-4)
    assert (config.grad_clip, config.lr_min_ratio, config.num_workers) == (1.0, 0.1, 8)
    assert (config.l1_weight, config.stft_weight, config.mel_weight) == (1.0, 1.0, 0.0)
    assert (config.n_ffts, config.stft_window) == ((1024, 2048, 4096), "rectangular")
    assert (config.betas, config.gain_probability) == ((0.9, 0.999), 0.5)
    assert config.name == name


def test_defaults_of_optional_keys(settings: dict[str, Any]) -> None:
    for key in ("segment_length", "n_ffts", "freeze_encoder", "freeze_vq"):
        del settings[key]
    config = configuration.parse(settings)
    assert config.name == "run"
    assert (config.grad_clip, config.lr_min_ratio, config.save_every) == (0.0, 0.1, 2)
    assert (config.l1_weight, config.stft_weight) == (1.0, 1.0)
    assert (config.freeze_encoder, config.freeze_vq) == (False, False)
    assert (config.segment_length, config.random_seed, config.curriculum) == (2.0, 42, ())


def test_a_mistyped_key_is_an_error_that_names_the_nearest(settings: dict[str, Any]) -> None:
    with pytest.raises(TrainerError, match=r"'learning_rte'.*did you mean 'learning_rate'\?"):
        configuration.parse({**settings, "learning_rte": 1e-4})
    stage = {"epochs": 1, "length": 1.0, "batch_multiplyer": 2}
    with pytest.raises(TrainerError, match=r"did you mean 'batch_multiplier'\?"):
        configuration.parse({**settings, "curriculum": [stage]})
    with pytest.raises(ConfigError, match="did you mean 'encoder_dim'"):
        configuration.parse({**settings, "pretrained_model": None, "model": {"encoder_dm": 8}})


def test_a_missing_key_is_named(settings: dict[str, Any]) -> None:
    del settings["batch_size"], settings["val_data"]
    with pytest.raises(TrainerError, match="lacks batch_size, val_data"):
        configuration.parse(settings)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("batch_size", 0, "batch_size must be greater than 0, not 0"),
        ("batch_size", 4.5, "batch_size must be a valid integer, not 4.5"),
        ("batch_size", True, "batch_size must be a valid integer, not True"),
        ("freeze_vq", 1, "freeze_vq must be a valid boolean, not 1"),
        ("learning_rate", float("nan"), "learning_rate must be a finite number, not nan"),
        ("learning_rate", "1e-4x", "learning_rate must be a valid number, not '1e-4x'"),
        ("save_every_batches", 0, "save_every_batches must be greater than 0"),
        ("num_workers", -1, "num_workers must be greater than or equal to 0"),
        ("random_seed", -1, "random_seed must be greater than or equal to 0"),
        ("lr_min_ratio", 1.5, "lr_min_ratio must be less than or equal to 1, not 1.5"),
        ("n_ffts", [], "n_ffts must have at least 1 item, not"),
        ("n_ffts", [1024, -1], r"n_ffts\[1\] must be greater than 0, not -1"),
        ("n_ffts", 1024, "n_ffts must be a valid list, not 1024"),
        ("betas", [0.9], r"lacks betas\[1\]"),
        ("betas", [0.9, 1.0], r"betas\[1\] must be less than 1, not 1.0"),
        ("gain_db", [6, -6], "gain_db must be"),
        ("codebook_decay", 1, "codebook_decay must be less than 1, not 1"),
        (
            "guided_step",
            5,
            "unknown key 'guided_step' in the configuration; did you mean 'guided_s",
        ),
        ("lr", 1e-4, "unknown key 'lr' in the configuration; did you mean '"),
        ("quantizer_warmup_steps", 2, "unknown key 'quantizer_warmup_steps'"),
        (
            "discriminator_n_ffts",
            [512, 255],
            r"discriminator_n_ffts\[1\] must be greater than or equal",
        ),
        ("discriminator_period_channels", [0], "must be greater than 0, not 0"),
        ("feature_weight", -0.5, "feature_weight must be greater than or equal to 0, not -0.5"),
        ("speed_range", [0, 1], r"speed_range\[0\] must be greater than 0, not 0"),
        ("mel_bins", [80], "needs one number for each"),
        ("precision", "fp16", "precision must be 'fp32' or 'bf16', not 'fp16'"),
        ("stft_window", "hamming", "stft_window must be 'rectangular' or 'hann'"),
        ("model", {}, "one of the two"),
        ("model", 24, "model must be a JSON object"),
        ("curriculum", {"epochs": 1}, "curriculum must be a valid list"),
        ("curriculum", [{"epochs": 1}], r"lacks curriculum\[0\].length"),
        ("curriculum", [{"epochs": [1, 2, 3], "length": 1}], "epochs must have at most 2 items"),
        (
            "curriculum",
            [{"epochs": [2, 1], "length": 1}],
            r"must be \[lowest, highest\], not \[2, 1\]",
        ),
        ("curriculum", [{"epochs": 0, "length": 1}], r"epochs\[0\] must be greater than 0, not 0"),
        ("curriculum", [{"epochs": 1, "length": 0}], "length must be greater than 0"),
        (
            "curriculum",
            [{"epochs": [1, 3], "length": 1}, {"epochs": 3, "length": 2}],
            "must follow each other",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(
    settings: dict[str, Any], key: str, value: Any, said: str
) -> None:
    with pytest.raises(TrainerError, match=said):
        configuration.parse({**settings, key: value})


def test_there_must_be_something_to_learn_from(settings: dict[str, Any]) -> None:
    with pytest.raises(TrainerError, match="one of l1_weight, stft_weight and mel_weight"):
        configuration.parse({**settings, "l1_weight": 0, "stft_weight": 0})


def test_there_must_be_discriminators_where_their_terms_count(settings: dict[str, Any]) -> None:
    none: dict[str, Any] = {"discriminator_periods": [], "discriminator_n_ffts": []}
    assert not configuration.parse({**settings, **none}).adversarial
    with pytest.raises(TrainerError, match="are both empty: name at least one discriminator"):
        configuration.parse({**settings, **none, "feature_weight": 1.0})


def test_keys_may_stand_in_groups(tmp_path: Path, settings: dict[str, Any]) -> None:
    grouped = {"losses": {"mel_weight": 15, "n_ffts": settings.pop("n_ffts")}, "data": {}}
    flat = {**settings, **grouped["losses"]}
    config = configuration.parse({**settings, **grouped})
    assert config == configuration.parse(flat)
    assert configuration.parse(config.to_dict()) == config
    with pytest.raises(TrainerError, match="mel_weight is given twice"):
        configuration.parse({**settings, **grouped, "mel_weight": 1})
    with pytest.raises(TrainerError, match="'mel_wight' in losses; did you mean 'mel_weight'"):
        configuration.parse({**settings, "losses": {"mel_wight": 1}})
    with pytest.raises(TrainerError, match="'batch_size' in losses"):
        configuration.parse({**settings, "losses": {"batch_size": 1}})
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**settings, **grouped}))
    assert configuration.load(path, ["mel_weight=3"]).mel_weight == 3


def test_a_configuration_does_not_change(settings: dict[str, Any]) -> None:
    config = configuration.parse(settings)
    with pytest.raises(ValueError, match="frozen"):
        config.batch_size = 3


def test_overrides_are_json_or_text(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    overrides = ["train_data=/data=1", "num_epochs=7", 'curriculum=[{"epochs": 1, "length": 2}]']
    config = configuration.load(path, overrides)
    assert (config.train_data, config.num_epochs) == ("/data=1", 7)
    assert config.curriculum == (Stage(2.0, (1, 1)),)
    with pytest.raises(TrainerError, match="reads key=value, not 'num_epochs'"):
        configuration.load(path, ["num_epochs"])
    with pytest.raises(TrainerError, match="did you mean 'num_epochs'"):
        configuration.load(path, ["num_epoch=7"])


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(TrainerError, match=r"config\.json"):
        configuration.load(path)
    with pytest.raises(TrainerError, match=r"cannot read the configuration .*none\.json: No such"):
        configuration.load(tmp_path / "none.json")
