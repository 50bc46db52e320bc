from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import snac_core
from snac_core.model.batch_context import BatchContext
from snac_core.store import ModelStore, checkpoint
from snac_core.store.identity import token_space
from tests.support.models import TINY
from tests.trainer.commands import rows
from tests.trainer.conftest import RATE, record, voice, weights
from tests.trainer.training.runs import CPU, FROM_NOTHING, LEARNING, losses, running
from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.model.network import reconstruct, starting_model
from trainer.runtime.checkpointing import copied_to_cpu
from trainer.training.batches import Batch
from trainer.training.loop import TrainingRun, train

ADVERSARIAL = {
    "adversarial_weight": 1.0,
    "feature_weight": 2.0,
    "discriminator_periods": [2],
    "discriminator_period_channels": [4, 8],
    "discriminator_n_ffts": [256],
    "discriminator_fft_channels": 2,
}


def first_batch(run: TrainingRun, epoch: int = 1) -> Batch:
    return run.epochs.next(iter(run.epochs.batches(epoch)))[0]


def test_a_run_leaves_all_its_outputs(trained: dict[str, Any], base: ModelStore) -> None:
    output = Path(trained["output_dir"])
    for name in ("config.json", "checkpoint_epoch1.pt", "checkpoint_epoch2.pt"):
        assert (output / name).is_file()
    assert list((output / "logs").glob("events.*"))
    config = configuration.parse(trained)
    assert configuration.load(output / "config.json") == config

    baseline = json.loads((output / "baseline_metrics.json").read_text())
    assert baseline["stages"].keys() == {"0.17", "0.34"}
    assert baseline["fixed"] == baseline["stages"]["0.34"]
    found = torch.load(output / "best_model.pt", weights_only=True)
    metrics = found["metrics"]
    assert metrics["baseline_val_loss"] == baseline["val_loss"]
    assert metrics["best_val_loss"] < baseline["val_loss"]
    gain = 1 - metrics["best_val_loss"] / baseline["val_loss"]
    assert metrics["improvement"] == pytest.approx(gain)
    assert found["base"] == base.current()
    assert found["train_config"] == config.to_dict()
    last = torch.load(output / "checkpoint_epoch2.pt", weights_only=True)
    assert {"optimizer", "best"} <= last.keys()

    codec = snac_core.load(output / "best_model.pt", "cpu")
    (codes,) = codec.encode([voice(0.5, 1)])
    assert np.isfinite(codec.decode([codes])[0]).all()


def test_fine_tuning_the_decoder_leaves_the_rest_bit_for_bit(
    trained: dict[str, Any], base: ModelStore
) -> None:
    before = checkpoint.read(base.root).weights
    after = weights(Path(trained["output_dir"]) / "best_model.pt")
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value) != name.startswith("decoder."), name
    assert token_space(TINY, after) == token_space(TINY, before)


@pytest.mark.parametrize("frozen", ["encoder", "quantizer"])
def test_the_encoder_or_the_quantizer_can_be_frozen_alone(
    settings: dict[str, Any], base: ModelStore, frozen: str
) -> None:
    before = checkpoint.read(base.root).weights
    settings |= {"freeze_encoder": frozen == "encoder", "freeze_vq": frozen == "quantizer"}
    settings |= {"ema_decay": 0.5, "codebook_decay": 0.9, "revive_codes_every": 1}
    after = weights(train(configuration.parse(settings), CPU))
    for part in ("encoder", "quantizer", "decoder"):
        same = [torch.equal(after[n], before[n]) for n in before if n.startswith(part)]
        assert all(same) if part == frozen else not any(same), part
    assert token_space(TINY, after) != token_space(TINY, before)
    last = rows(Path(settings["output_dir"]))[-1]
    assert float(last["commitment"]) > 0
    assert bool(last["codebook"]) == (frozen == "encoder")
    assert 0 <= float(last["code_agreement"]) < 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_frozen_takes_part_in_no_gradient_and_keeps_its_codes(
    settings: dict[str, Any], precision: str
) -> None:
    config = configuration.parse({**settings, "precision": precision})
    model, _ = starting_model(config)
    audio = torch.from_numpy(voice(12288 / RATE, 1))[None, None]
    out = reconstruct(model, audio, config, BatchContext(audio.shape[-1], noise="random"))
    for level in out.levels:
        assert not level.projected.requires_grad
        assert not level.entries.requires_grad
    assert out.audio.requires_grad
    for level, codes in zip(out.levels, model.encode(audio), strict=True):
        assert torch.equal(level.codes, codes)


def test_a_short_segment_has_the_codes_that_it_has_alone(settings: dict[str, Any]) -> None:
    config = configuration.parse(settings)
    model, _ = starting_model(config)
    short, long = (torch.from_numpy(voice(n / RATE, 1))[None, None] for n in (6144, 12288))
    padded = torch.nn.functional.pad(short, (0, 6144))
    own = torch.ones(2, 1, 12288)
    own[0, :, 6144:] = 0
    batch = Batch(torch.cat([padded, long]), own, torch.arange(2))
    out = reconstruct(model, batch.audio, config, batch.context(model.config, batch.noise(0)))
    for level, codes in zip(out.levels, model.encode(short), strict=True):
        assert torch.equal(level.codes[:1, : codes.shape[1]], codes)


def test_the_quantizer_is_exact_in_bf16_too(settings: dict[str, Any]) -> None:
    config = configuration.parse({**settings, **LEARNING, "precision": "bf16"})
    model, _ = starting_model(config)
    audio = torch.from_numpy(voice(12288 / RATE, 1))[None, None]
    out = reconstruct(model, audio, config, BatchContext(12288, noise="random"))
    (gradient,) = torch.autograd.grad(
        out.audio.float().abs().mean(),
        [model.encoder.get_parameter("block.0.parametrizations.weight.original1")],
    )
    for level in out.levels:
        assert level.projected.dtype == torch.float32
    assert gradient.isfinite().all()
    assert gradient.any()


def test_validation_gives_the_same_figures_every_time(settings: dict[str, Any]) -> None:
    with running(settings) as run:
        first = losses(run, 0.25)
        torch.rand(7)
        assert losses(run, 0.25) == first
    with running(settings, eval_batch_size=4) as run:
        assert losses(run, 0.25) == pytest.approx(first, rel=1e-4)


def test_a_short_recording_is_measured_as_if_it_were_alone(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    record(tmp_path / "short" / "a.wav", 0.3, seed=1)
    with running(settings, val_data=str(tmp_path / "short"), mel_weight=1.0, **LEARNING) as run:
        alone = losses(run, 0.3)
        for seconds in (0.5, 1.1):
            assert losses(run, seconds) == pytest.approx(alone, rel=1e-4)


def test_baselines_are_those_of_the_untouched_base(trained: dict[str, Any], tmp_path: Path) -> None:
    report = json.loads((Path(trained["output_dir"]) / "baseline_metrics.json").read_text())
    with running(trained, output_dir=str(tmp_path)) as run:
        assert report["stages"] == {f"{length:g}": losses(run, length) for length in (0.17, 0.34)}


def test_the_best_is_chosen_on_the_longest_stage_whenever_it_was_reached(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    record(tmp_path / "few" / "a.wav", 0.7, seed=1)
    curriculum = [{"epochs": 1, "length": 0.34}, {"epochs": 2, "length": 0.17}]
    settings |= {"num_epochs": 2, "curriculum": curriculum, "train_data": str(tmp_path / "few")}
    best = train(configuration.parse(settings), CPU)
    output = Path(settings["output_dir"])
    val = [float(row["loss"]) for row in rows(output) if row["split"] == "val"]
    metrics = torch.load(best, weights_only=True)["metrics"]
    assert len(val) == 3
    assert metrics["best_val_loss"] == pytest.approx(min(val[1:]))
    with running({**settings, "pretrained_model": str(best)}, output_dir=str(output / "x")) as run:
        assert losses(run, 0.34)["loss"] == pytest.approx(metrics["best_val_loss"], rel=1e-5)


def test_a_model_from_nothing_learns_what_it_is_shown(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    record(tmp_path / "toy" / "a.wav", 0.17, seed=1)
    changes = {
        **FROM_NOTHING,
        "train_data": [{"path": str(tmp_path / "toy"), "weight": 30.0}],
        "val_data": str(tmp_path / "toy"),
        "batch_size": 1,
        "max_steps": None,
        "learning_rate": 4e-3,
        "gain_probability": 0.0,
        "polarity_probability": 0.0,
        "mel_weight": 1.0,
        "revive_codes_every": 10,
        "grad_clip": 1.0,
    }
    with running(settings, **changes) as run:
        before = losses(run, 0.17)
        run.train_epoch()
        after = losses(run, 0.17)
        assert run.finished
    assert run.state.step == 30
    for name in ("loss", "mel", "stft"):
        assert after[name] < 0.75 * before[name], name


def test_the_same_configuration_gives_the_same_run(settings: dict[str, Any]) -> None:
    outputs = []
    for name in ("a", "b"):
        settings["output_dir"] = str(Path(settings["output_dir"]).with_name(name))
        outputs.append(train(configuration.parse({**settings, **FROM_NOTHING}), CPU))
    first, second = map(weights, outputs)
    assert all(torch.equal(first[name], second[name]) for name in first)


# Forking a process that has threads is what PyTorch does here, and newer Pythons warn of it.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_makes_no_difference(settings: dict[str, Any]) -> None:
    outputs = []
    for workers in (0, 1):
        settings["output_dir"] = str(Path(settings["output_dir"]).with_name(f"run{workers}"))
        outputs.append(train(configuration.parse({**settings, "num_workers": workers}), CPU))
    first, second = map(weights, outputs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_metrics_are_a_table(settings: dict[str, Any]) -> None:
    settings |= {"batch_size": 1, "max_steps": 20, "warmup_steps": 40, "eval_every_batches": 15}
    settings["val_segments"] = 1
    train(configuration.parse(settings), CPU)
    table = rows(Path(settings["output_dir"]))
    assert [(row["split"], row["step"]) for row in table] == [
        *(("val", "0"), ("train", "10"), ("val", "15"), ("train", "20"), ("val", "20"))
    ]
    by_step = {row["step"]: row for row in table if row["split"] == "train"}
    assert float(by_step["10"]["learning_rate"]) == pytest.approx(1e-3 * 10 / 40)
    for row in table:
        total = float(row["l1"]) + float(row["stft"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-4)
        assert row["commitment"] == ""
    assert all(float(row["audio_seconds_per_second"]) > 0 for row in by_step.values())


def test_steps_end_where_they_are_told(settings: dict[str, Any]) -> None:
    changes = {"batch_size": 1, "num_epochs": 9, "max_steps": 3, "save_every_batches": 2}
    train(configuration.parse({**settings, **changes}), CPU)
    output = Path(settings["output_dir"])
    latest = torch.load(output / "checkpoint_latest.pt", weights_only=True)
    last = torch.load(output / "checkpoint_epoch1.pt", weights_only=True)
    assert (latest["step"], last["step"], last["epoch"]) == (2, 3, 1)
    assert not (output / "checkpoint_epoch2.pt").exists()


def test_recordings_that_break_in_mid_run_cost_their_segments_only(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "fragile"
    for number in range(4):
        record(folder / f"{number}.wav", 0.17, seed=number)
    changes = {"train_data": str(folder), "val_data": str(folder), "num_epochs": 3}
    with caplog.at_level(logging.WARNING), running(settings, **changes, max_steps=None) as run:
        (folder / "0.wav").write_bytes(b"no longer audio")
        run.selection.baseline()
        assert run.transfer.skipped == 1
        run.train_epoch()
        assert (run.transfer.skipped, run.state.step) == (3, 2)
        for number in (1, 2):
            (folder / f"{number}.wav").unlink()
        run.train_epoch()
        assert run.transfer.skipped == 9
        (folder / "3.wav").unlink()
        with pytest.raises(TrainerError, match=r"none of the recordings in .* can be read"):
            run._validate()
    assert "0.wav" in caplog.text
    assert "9 segments left out so far" in caplog.text
    assert (Path(settings["output_dir"]) / "checkpoint_latest.pt").exists()
    named = (Path(settings["output_dir"]) / "unreadable.csv").read_text()
    assert [named.count(f"{number}.wav,") for number in range(4)] == [1, 1, 1, 1]


def test_steps_that_are_not_finite_move_nothing_and_end_the_run_when_they_do_not_end(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    changes = {**FROM_NOTHING, "codebook_decay": 0.5, "loss_balancer": True, "ema_decay": 0.9}
    with running(settings, **changes, **ADVERSARIAL, max_bad_steps=3) as run:
        good = first_batch(run)
        bad = good._replace(audio=good.audio.clone())
        bad.audio[0, 0, 5] = math.nan

        def everything() -> list[dict[str, Any]]:
            return [copied_to_cpu(part.state_dict()) for part in (run.model, run.learner)]

        assert run.learner.step(good, 0, 9) is not None
        before = everything()
        for step in (1, 2):
            assert run.learner.step(bad, step, 9) is None
        assert run.learner.bad == run.learner.bad_in_a_row == 2
        after = everything()
        for state in (before[1], after[1]):
            del state["bad"], state["bad_in_a_row"]
            # The rate is that of the step, taken or not.
            for name in ("optimizer", "rival_optimizer"):
                state[name] = state[name]["state"]
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        assert run.learner.step(good, 3, 9) is not None
        assert run.learner.bad_in_a_row == 0
        for step in (4, 5):
            assert run.learner.step(bad, step, 9) is None
        with pytest.raises(
            TrainerError, match=r"3 steps in a row .*step 6.*: a lower learning_rate"
        ):
            run.learner.step(bad, 6, 9)
    assert "a step is left out, as it is not finite (1 so far)" in caplog.text


def test_bad_steps_that_end_a_run_leave_a_checkpoint_to_go_on_from(
    settings: dict[str, Any],
) -> None:
    with running(settings, max_bad_steps=1) as run:
        with torch.no_grad():
            run.model.get_parameter("decoder.model.0.bias").fill_(math.nan)
        with pytest.raises(TrainerError, match="1 steps in a row were not finite"):
            run.train_epoch()
    latest = torch.load(Path(settings["output_dir"]) / "checkpoint_latest.pt", weights_only=True)
    progress = latest["run"]["progress"]
    assert (progress["step"], progress["batch"], len(progress["reading"])) == (0, 1, 1)


def test_tensorboard_has_clips_to_look_at_and_listen_to(trained: dict[str, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(Path(trained["output_dir"]) / "logs"))
    events.Reload()
    tags = events.Tags()
    for clip in range(4):
        for kind in ("audio", "spectrogram"):
            found = tags["audio" if kind == "audio" else "images"]
            assert {f"{kind}/{clip}/original", f"{kind}/{clip}/reconstructed"} <= set(found)
    steps = [sound.step for sound in events.Audio("audio/0/reconstructed")]
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert len(steps) == 3
    assert {"train/loss", "val/loss", "val/stft"} <= set(tags["scalars"])
