from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile

from snac_core import audio
from snac_core.codec import Codec
from snac_core.store import ModelStore
from snac_core.store.identity import token_space
from tests.support.models import TINY, random_model
from tests.trainer.conftest import RATE, record
from tests.trainer.pages import Page
from trainer import config as configuration
from trainer.cli import main
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.evaluation import report
from trainer.evaluation.evaluate import Evaluation, evaluate
from trainer.evaluation.fixed_loss import default_config
from trainer.evaluation.models import Compared, Models
from trainer.reporting import curves, plots
from trainer.reporting.page import flac

FIGURES = ("stoi", "pesq", "log_mel", "stft_distance", "si_sdr")


def candidate(seed: int) -> Compared:
    model = random_model(TINY, seed)
    space = token_space(TINY, model.state_dict())
    return Compared(f"<model> & {seed}", Codec(model, version=f"v{seed}", token_space=space), model)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    values = {**default_config().to_dict(), "curriculum": None, "segment_length": 0.25}
    return configuration.parse(values)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("anna_1", "ben_1", "ben_2")):
        record(folder / f"{name}.wav", 0.5, seed=number)
    (folder / "anna_<b>.wav").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with (folder / "metrics.csv").open("w", newline="") as file:
        names = ("step", "epoch", "stage", "split", "loss", "l1", "mel", "learning_rate")
        table = csv.DictWriter(file, names)
        table.writeheader()
        for step in range(3000):
            loss = {"loss": 0.2 + math.exp(-step / 500), "l1": 0.1}
            place = {"step": step, "epoch": 1, "stage": 1 + step // 2000}
            table.writerow({**place, "split": "train", **loss})
            if step % 1000 == 0:
                table.writerow({**place, "split": "val", **loss})
                table.writerow({**place, "split": "val:general", **loss})
    base = {"val_loss": 1.5, "sets": {"general": {"loss": 1.25}}}
    (folder / "baseline_metrics.json").write_text(json.dumps(base))
    return folder


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated")


@pytest.fixture(scope="module")
def evaluation(config: TrainConfig, data: Path, output: Path) -> Evaluation:
    models: Models = {"base": candidate(0), "finetuned": candidate(1)}
    return evaluate(
        models,
        [data],
        config=config,
        group_by="^[a-z]+",
        output_dir=output,
        samples=3,
        measures=FIGURES,
    )


@pytest.fixture(scope="module")
def page(evaluation: Evaluation, output: Path, run: Path) -> Page:
    return Page(report.write(evaluation, output, run))


def test_the_page_needs_nothing_else(page: Page) -> None:
    page.check_self_contained()
    assert "://" not in page.html


def test_players_hold_the_samples(page: Page, evaluation: Evaluation, output: Path) -> None:
    players = [attributes for tag, attributes in page.elements if tag == "audio"]
    assert len(players) == 9
    assert all("controls" in attributes for attributes in players)
    sounds = [soundfile.read(io.BytesIO(data)) for data in page.data("audio/flac")]
    files = [file for one in evaluation.results["samples"] for file in one["files"].values()]
    assert {rate for _, rate in sounds} == {RATE}
    for first in range(0, 9, 3):
        heard = [samples.tobytes() for samples, _ in sounds[first : first + 3]]
        kept = [soundfile.read(output / file)[0].tobytes() for file in files[first : first + 3]]
        # The models come in any order, and the page says which is which.
        assert heard[0] == kept[0]
        assert set(heard) == set(kept)
        assert len(set(heard)) == 3
        a, b = ("base", "fine-tuned") if heard == kept else ("fine-tuned", "base")
        assert f"A is {a}, B is {b}." in page.words.split("which is which")[2 + first // 3]


def test_a_change_within_its_interval_has_no_colour(
    evaluation: Evaluation, output: Path, tmp_path: Path
) -> None:
    results = {**evaluation.results, "samples": [], "improvement": 0.002}
    for interval, sure in ((0.09, False), (0.0001, True)):
        change = {"mean": -0.01, "ci95": interval, "better": 0.6, "higher_is_better": False}
        results["change"] = {**results["change"], "loss": change}
        page = Page(report.write(evaluation._replace(results=results), tmp_path))
        head = page.html.split("<dl>")[0].split('class="lead"')[1]
        assert ('class="good"' in head) == sure
        assert ("may be chance" in head) != sure


def test_spectrograms_are_pictures_of_different_sounds(page: Page) -> None:
    pictures = [matplotlib.image.imread(io.BytesIO(data)) for data in page.data("image/png")]
    assert len(pictures) == 9
    assert all(min(picture.shape[:2]) > 50 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 9
    assert all(np.ptp(picture[..., :3]) > 0.5 for picture in pictures)


def test_figures_are_on_the_page(page: Page, evaluation: Evaluation) -> None:
    results = evaluation.results
    for role in ("base", "finetuned"):
        assert f"{results[role]['loss']:.4f}" in page.words
        assert f"{results[role]['log_mel']:.3f}" in page.words
        assert results[role]["token_space"] in page.words
    share = f"{100 * abs(results['improvement']):.1f} %"
    assert f"{share} {'lower' if results['improvement'] > 0 else 'higher'}" in page.words
    assert "lost most against the base" in page.words
    for text in ("STOI", "PESQ", "SI-SDR", "anna", "ben", "retention", "base, val", "learning"):
        assert (text in page.words) == (text != "learning"), text


def test_names_are_text_and_never_markup(page: Page) -> None:
    assert "<model> & 0" in page.words
    assert "anna_<b>.wav not readable as audio: Format not recognised" in page.words
    assert ("model", {}) not in page.elements
    assert ("b", {}) not in page.elements


def test_audio_on_the_page_is_bounded(
    evaluation: Evaluation, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = []
    for file in evaluation.results["samples"][0]["files"].values():
        wanted.append(flac(audio.read(output / file, RATE)[: round(0.4 * RATE)], RATE))
    monkeypatch.setattr(report, "CLIP_SECONDS", 0.4)
    monkeypatch.setattr(report, "AUDIO_BYTES", sum(map(len, wanted)))
    page = Page(report.write(evaluation, output))
    assert sorted(page.data("audio/flac")) == sorted(wanted)
    assert "Each from its start, 0.4 s at most." in page.words
    assert "2 of 3 come without players" in page.words
    assert len(page.data("image/png")) == 9
    assert "Loss curves" not in page.words


def test_curves_of_a_long_run_keep_their_shape(run: Path) -> None:
    found = curves.read(run)
    assert found.baseline == 1.5
    assert found.splits.keys() == {"train", "val", "val:general"}
    assert found.splits["train"].keys() == {"loss", "l1"}
    steps, values = found.splits["train"]["loss"]
    assert 200 <= len(steps) <= curves.MOST_POINTS
    assert np.mean(steps) == pytest.approx(np.mean(range(3000)), rel=0.01)
    wanted = [0.2 + math.exp(-step / 500) for step in steps]
    assert values == pytest.approx(wanted, rel=1e-3)
    assert found.splits["val"]["loss"].steps == [0, 1000, 2000]
    # Between the last row of one stage and the first of the next.
    assert found.stages == [1999]
    assert found.baselines == {"val:general": 1.25}
    figure = plots.loss_curves(found)
    for text in ("base, val", "val:general", "stroke-dasharray"):
        assert text in figure


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"metrics\.csv: No such file"):
        curves.read(tmp_path)
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TrainerError, match=r"is not the metrics\.csv of a run"):
        curves.read(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,split,loss\nx,val,0.1\n")
    with pytest.raises(TrainerError, match=r"is not the metrics\.csv of a run"):
        curves.read(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,split,loss\n1,val,0.1\n")
    (tmp_path / "baseline_metrics.json").write_text("{}")
    with pytest.raises(TrainerError, match="is not the baseline of a run"):
        curves.read(tmp_path)


def test_the_command_writes_all_of_it(
    data: Path,
    base: ModelStore,
    run: Path,
    config: TrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (run / "config.json").write_text(json.dumps(config.to_dict()))
    output = tmp_path / "output"
    command = ["evaluate", "--model", str(base.root), "--data", str(data), "--device", "cpu"]
    command += ["--run", str(run), "--output-dir", str(output), "--samples", "1"]
    command += ["--measures", ",".join(FIGURES)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "| all | 3 | 2 | " in said
    assert f"report: {output / 'report.html'}" in said
    names = {path.relative_to(output).as_posix() for path in output.rglob("*.*")}
    assert names == {
        *("evaluation_results.json", "per_file.parquet", "report.html"),
        *("samples/000_original.wav", "samples/000_model.wav"),
    }
    page = Page(output / "report.html")
    page.check_self_contained()
    assert len(page.data("audio/flac")) == 2
    assert "Loss curves" in page.words
    assert json.loads((output / "evaluation_results.json").read_text())["loss_crops"] == {
        "count": 3,
        "seconds": 0.25,
        "seed": 42,
    }
