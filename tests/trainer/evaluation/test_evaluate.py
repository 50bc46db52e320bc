from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from snac_core import audio, quality
from snac_core.codec import Codec
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise
from snac_core.store import ModelStore
from snac_core.store.identity import token_space
from tests.support.models import TINY, TINY_ATTENTION, random_model
from tests.trainer.conftest import RATE, record
from trainer import config as configuration
from trainer.config import TrainConfig
from trainer.config.curriculum import longest
from trainer.data.recordings import clip_of
from trainer.data.scan import scan
from trainer.data.segments import crop
from trainer.errors import TrainerError
from trainer.evaluation import models as compared
from trainer.evaluation import speech_quality
from trainer.evaluation.evaluate import Evaluation, evaluate, to_markdown
from trainer.evaluation.fixed_loss import default_config, fixed_losses
from trainer.evaluation.models import Compared, Models
from trainer.losses.losses import Losses
from trainer.model.code_use import entropy_bits

FIGURES = ("stoi", "pesq", "log_mel", "stft_distance", "si_sdr")


def candidate(seed: int) -> Compared:
    model = random_model(TINY, seed)
    space = token_space(TINY, model.state_dict())
    return Compared(f"model {seed}", Codec(model, version=f"v{seed}", token_space=space), model)


@pytest.fixture(scope="module")
def models() -> Models:
    return {"base": candidate(0), "finetuned": candidate(1)}


@pytest.fixture(scope="module")
def alone() -> Models:
    return {"model": candidate(0)}


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    values = {**default_config().to_dict(), "curriculum": None, "segment_length": 0.25}
    return configuration.parse({**values, "n_ffts": [256, 512]})


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers with two recordings each, of several formats, rates and lengths."""
    folder = tmp_path_factory.mktemp("voices")
    for number, name in enumerate(("anna", "ben", "cleo", "dan")):
        record(folder / f"{name}_1.flac", 0.6, 10 * number, rate=16000)
        record(folder / f"{name}_2.wav", 0.2, 10 * number + 1, rate=48000, channels=2)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers with two short recordings each."""
    folder = tmp_path_factory.mktemp("few")
    for number, name in enumerate(("eve_1", "eve_2", "fay_1", "fay_2")):
        record(folder / f"{name}.wav", 0.3, seed=number)
    return folder


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated")


@pytest.fixture(scope="module")
def evaluation(models: Models, config: TrainConfig, voices: Path, output: Path) -> Evaluation:
    return evaluate(
        models,
        [voices],
        config=config,
        measures=FIGURES,
        group_by="^[a-z]+",
        output_dir=output,
        samples=4,
    )


@pytest.fixture(scope="module")
def rows(evaluation: Evaluation, output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(output / "per_file.parquet").to_pylist()
    return found


def test_figures_are_those_of_the_reconstruction(
    models: Models, rows: list[dict[str, Any]]
) -> None:
    assert len(rows) == 8
    one = next(row for row in rows if row["path"].endswith("anna_1.flac"))
    samples = audio.read(one["path"], RATE)
    assert one["seconds"] == len(samples) / RATE
    codes = {}
    for role, model in models.items():
        (codes[role],) = model.codec.encode([samples])
        (result,) = model.codec.decode([codes[role]])
        (again,) = model.codec.encode([result])
        assert one[f"{role}_stoi"] == pytest.approx(quality.stoi(samples, result, RATE), abs=1e-6)
        assert one[f"{role}_log_mel"] == quality.log_mel_distance(samples, result, RATE)
        assert one[f"{role}_si_sdr"] == pytest.approx(quality.si_sdr(samples, result))
        assert one[f"{role}_pesq"] == speech_quality.pesq(samples, result, RATE)
        assert one[f"{role}_stft_distance"] == speech_quality.stft_distance(samples, result, RATE)
        count = sum(len(level) for level in codes[role].levels)
        assert one[f"{role}_bits_per_second"] == pytest.approx(count * 12 / one["seconds"])
        for level, (first, second) in enumerate(zip(codes[role].levels, again.levels, strict=True)):
            assert one[f"{role}_retention_{level}"] == np.mean(first == second)
    for level in range(3):
        same = codes["base"].levels[level] == codes["finetuned"].levels[level]
        assert one[f"agreement_{level}"] == np.mean(same)


def test_the_loss_is_that_of_a_training_run(trained: dict[str, Any]) -> None:
    run = Path(trained["output_dir"])
    metrics = torch.load(run / "best_model.pt", weights_only=True)["metrics"]
    loaded = compared.load(str(run / "best_model.pt"), trained["pretrained_model"], "cpu")
    networks = {role: one.network for role, one in loaded.items()}
    parsed = configuration.parse(trained)
    losses = fixed_losses(networks, scan(trained["val_data"]), parsed, torch.device("cpu"))
    assert len(losses) == 4
    means = {
        role: np.mean([by_role[role]["loss"] for by_role in losses.values()]) for role in networks
    }
    # One crop at a time here, and batches there, with recordings shorter than a crop in them.
    assert means["finetuned"] == pytest.approx(metrics["best_val_loss"], rel=1e-5)
    assert means["base"] == pytest.approx(metrics["baseline_val_loss"], rel=1e-5)


def test_one_crop_has_the_loss_that_training_would_log(
    models: Models, config: TrainConfig, recordings: Path, tmp_path: Path
) -> None:
    path = record(tmp_path / "one.wav", longest(config).length, seed=1)
    network = models["base"].network
    found = fixed_losses({"base": network}, [clip_of(path)], config, torch.device("cpu"))
    length = TINY.padded_samples(round(0.25 * RATE))
    segment = crop(clip_of(path), 0.0, length / RATE, RATE)
    zero = torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        out = network(segment.audio[None], BatchContext(length, None, Noise(zero, zero)))
        terms = Losses(config, RATE)(out, segment.audio[None], segment.own[None])
    assert found[str(path)]["base"] == {name: float(value) for name, value in terms.items()}


def test_means_are_by_group_and_over_all(
    evaluation: Evaluation, rows: list[dict[str, Any]]
) -> None:
    results = evaluation.results
    assert list(results["groups"]) == ["anna", "ben", "cleo", "dan"]
    for name, row in {**results["groups"], "all": results["all"]}.items():
        members = [one for one in rows if name in ("all", one["group"])]
        assert row["recordings"] == len(members)
        assert row["seconds"] == pytest.approx(sum(one["seconds"] for one in members))
        for role in ("base", "finetuned"):
            assert row[role]["num_segments"] == len(members)
            for figure in (*FIGURES, "loss", "l1", "stft"):
                values = [one[f"{role}_{figure}"] for one in members]
                known = [value for value in values if value is not None]
                assert row[role][figure] == pytest.approx(sum(known) / len(known)), figure
    for figure, change in results["change"].items():
        pairs = [(one[f"base_{figure}"], one[f"finetuned_{figure}"]) for one in rows]
        gains = [after - before for before, after in pairs if None not in (before, after)]
        assert change["mean"] == pytest.approx(np.mean(gains))
        assert change["ci95"] == pytest.approx(1.96 * np.std(gains, ddof=1) / len(gains) ** 0.5)
        better = [gain > 0 if change["higher_is_better"] else gain < 0 for gain in gains]
        assert change["better"] == pytest.approx(np.mean(better))
    loss = {role: results[role]["loss"] for role in ("base", "finetuned")}
    assert results["improvement"] == pytest.approx(1 - loss["finetuned"] / loss["base"])


def test_codes_are_counted(evaluation: Evaluation, models: Models, voices: Path) -> None:
    for role, model in models.items():
        waves = [audio.read(clip.path, RATE) for clip in scan(voices)]
        codes = model.codec.encode(waves)
        for level, said in enumerate(evaluation.results[role]["levels"]):
            all_codes = np.concatenate([one.levels[level] for one in codes])
            counts = np.bincount(all_codes, minlength=TINY.codebook_size)
            assert (evaluation.counts[role][level] == counts).all()
            assert said["used"] == len(set(all_codes.tolist()))
            assert said["codes"] == len(all_codes)
            assert said["perplexity"] == pytest.approx(2 ** entropy_bits(counts))
            assert 0 <= said["retention"] <= 1


def test_results_are_written_as_returned(evaluation: Evaluation, output: Path) -> None:
    assert json.loads((output / "evaluation_results.json").read_text()) == evaluation.results


def test_samples_are_three_different_signals_spread_over_groups(
    evaluation: Evaluation, output: Path, models: Models
) -> None:
    samples = evaluation.results["samples"]
    assert [sample["group"] for sample in samples] == ["anna", "ben", "cleo", "dan"]
    names = {path.name for path in (output / "samples").iterdir()}
    assert names == {
        f"{number:03d}_{role}.wav" for number in range(4) for role in ("original", *models)
    }
    for sample in samples:
        signals = {}
        for role, file in sample["files"].items():
            signals[role], rate = soundfile.read(output / file, dtype="float32")
            assert rate == RATE
        original = audio.read(sample["path"], RATE)
        assert np.abs(signals["original"] - original).max() < 1e-4
        for role, model in models.items():
            (made,) = model.codec.decode(model.codec.encode([original]))
            assert np.abs(signals[role] - made).max() < 1e-4
        assert len({signal.tobytes() for signal in signals.values()}) == 3


def test_one_model_needs_no_base(alone: Models, config: TrainConfig, few: Path) -> None:
    results = evaluate(alone, [few], config=config, measures=FIGURES).results
    assert results["model"]["num_files"] == results["model"]["num_segments"] == 4
    assert not {"base", "finetuned", "change", "improvement", "agreement"} & results.keys()
    assert list(results["groups"]) == ["all"]
    assert results["samples"] == []


def test_a_group_ends_once_it_has_enough(alone: Models, config: TrainConfig, few: Path) -> None:
    results = evaluate(
        alone, [few], config=config, measures=FIGURES, group_by="^[a-z]+", max_seconds_per_group=0.3
    ).results
    assert {row["recordings"] for row in results["groups"].values()} == {1}
    assert results["model"]["num_segments"] == 4, "the loss is on the fixed set all the same"


def test_long_recordings_are_cut_and_bad_ones_listed(
    alone: Models,
    config: TrainConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.evaluation.evaluate.LONGEST_SECONDS", 1.5)
    data, output = tmp_path / "data", tmp_path / "output"
    record(data / "long.wav", 2.0, seed=1)
    broken = np.full(RATE, np.nan, np.float32)
    soundfile.write(data / "nan.wav", broken, RATE, subtype="FLOAT")
    soundfile.write(data / "silent.wav", np.zeros(RATE), RATE)
    (data / "text.wav").write_text("no sound")
    with caplog.at_level(logging.WARNING):
        results = evaluate(
            alone, [data], config=config, measures=FIGURES, output_dir=output
        ).results
    assert results["skipped"] == 2
    reasons = {Path(one["path"]).name: one["reason"] for one in results["unreadable"]}
    assert reasons.keys() == {"nan.wav", "text.wav"}
    assert "not finite" in reasons["nan.wav"]
    for name in reasons:
        assert name in caplog.text
    rows = pq.read_table(output / "per_file.parquet").to_pylist()
    assert [row["seconds"] for row in rows] == [1.5, 1.0]
    silent = rows[1]
    for figure in ("stoi", "pesq", "stft_distance", "si_sdr"):
        assert silent[f"model_{figure}"] is None, "not defined for silence, and no part of a mean"
    assert math.isfinite(results["model"]["stoi"])
    assert [Path(one["path"]).name for one in results["samples"]] == ["long.wav", "silent.wav"]
    (data / "long.wav").unlink()
    (data / "silent.wav").unlink()
    with pytest.raises(TrainerError, match="none of the 1 recordings"):
        evaluate(alone, [data], config=config, measures=FIGURES, output_dir=tmp_path / "nothing")
    assert not (tmp_path / "nothing" / "evaluation_results.json").exists()


def test_folders_are_taken_together_and_files_once(
    alone: Models, config: TrainConfig, tmp_path: Path
) -> None:
    record(tmp_path / "a" / "one.wav", 0.3, seed=1)
    record(tmp_path / "b" / "two.wav", 0.3, seed=2)
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "a"]
    results = evaluate(alone, folders, config=config, measures=FIGURES, group_by="folder").results
    assert {name: row["recordings"] for name, row in results["groups"].items()} == {"a": 1, "b": 1}


def test_without_pesq_its_column_is_absent_and_the_reason_given(
    alone: Models,
    config: TrainConfig,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pesq", None)
    results = evaluate(
        alone, [few], config=config, output_dir=tmp_path, max_seconds_per_group=0.1
    ).results
    assert "pesq" not in results["measures"]
    assert "not installed" in results["missing"]["pesq"]
    assert "model_pesq" not in pq.read_schema(tmp_path / "per_file.parquet").names


def test_models_of_two_sample_rates_are_refused(base: ModelStore, tmp_path: Path) -> None:
    other = ModelStore(tmp_path)
    other.publish(TINY_ATTENTION, random_model(TINY_ATTENTION).state_dict())
    with pytest.raises(TrainerError, match=r"24000 Hz and .* for 32000 Hz"):
        compared.load(str(tmp_path), str(base.root), "cpu")
    assert list(compared.load(str(base.root), None, "cpu")) == ["model"]


def test_the_table_has_a_row_for_each_group() -> None:
    row = {"loss": 0.25, "stoi": 0.81239, "log_mel": 0.7, "si_sdr": -1.234}
    unknown = {"loss": None, "stoi": None, "log_mel": 0.5, "si_sdr": None}
    many, few = {"recordings": 3, "seconds": 12.4}, {"recordings": 1, "seconds": 1.0}
    results: dict[str, Any] = {
        "terms": ["l1", "loss"],
        "measures": ["stoi", "log_mel", "si_sdr"],
        "model": row,
        "groups": {"anna": {**many, "model": row}, "ben": {**few, "model": unknown}},
        "all": {**many, "model": row},
    }
    assert to_markdown(results).splitlines() == [
        "| group | recordings | seconds | loss | STOI | log-mel L1 | SI-SDR (dB) |",
        "|---|---|---|---|---|---|---|",
        "| anna | 3 | 12 | 0.2500 | 0.812 | 0.700 | -1.23 |",
        "| ben | 1 | 1 | - | - | 0.500 | - |",
        "| all | 3 | 12 | 0.2500 | 0.812 | 0.700 | -1.23 |",
    ]
    results["base"] = results["finetuned"] = results.pop("model")
    results["groups"] = {}
    results["all"] = {**many, "base": row, "finetuned": row}
    lines = to_markdown(results).splitlines()
    assert lines[0].startswith("| group | model | recordings |")
    assert [line[:20] for line in lines[2:]] == ["| all | base | 3 | 1", "| all | finetuned | "]
