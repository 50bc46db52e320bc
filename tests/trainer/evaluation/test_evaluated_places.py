"""What may be evaluated, in which groups, and by how many processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snac_core.codec import Codec
from snac_core.store.identity import token_space
from tests.support.models import TINY, random_model
from tests.trainer.conftest import record
from trainer import config as configuration
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.evaluation import selection
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.fixed_loss import default_config
from trainer.evaluation.models import Compared, Models
from trainer.evaluation.speech_quality import MEASURES, Measure
from trainer.evaluation.worst import COUNT, Worst
from trainer.preparation.prepare import prepare

FAST = ("log_mel", "si_sdr")


@pytest.fixture(scope="module")
def models() -> Models:
    found: Models = {}
    for seed, role in enumerate(("base", "finetuned")):
        model = random_model(TINY, seed)
        codec = Codec(model, version=role, token_space=token_space(TINY, model.state_dict()))
        found[role] = Compared(role, codec, model)
    return found


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    values = {**default_config().to_dict(), "curriculum": None, "segment_length": 0.25}
    return configuration.parse({**values, "n_ffts": [256, 512]})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One split as links and as shards; `val` has two speakers."""
    folder = tmp_path_factory.mktemp("prepared")
    for number, name in enumerate(("anna_1", "anna_2", "ben_1", "ben_2", "cleo_1")):
        record(folder / "all" / f"{name}.wav", 0.3, seed=number)
    how = {"group_by": "^[a-z]+", "val_groups": ["anna", "ben"], "jobs": 1}
    prepare([folder / "all"], folder / "links", **how)  # type: ignore[arg-type]
    prepare([folder / "all"], folder / "shards", shards=True, shard_recordings=3, **how)  # type: ignore[arg-type]
    return {name: folder / name for name in ("all", "links", "shards")}


def speakers(*places: Path | str, group_by: str | None = None) -> list[str]:
    taken, unreadable = selection.find(places, group_by)
    assert not unreadable
    return sorted(one.group for one in taken)


def test_groups_come_from_the_manifest_of_prepare(prepared: dict[str, Path]) -> None:
    wanted = ["anna", "anna", "ben", "ben"]
    links, shards = prepared["links"], prepared["shards"]
    assert speakers(links / "val") == wanted
    assert speakers(links / "manifest.parquet") == wanted
    assert speakers(shards / "val") == wanted
    assert speakers(shards / "val" / "{000000..000001}.tar") == wanted
    # A recording that is found twice counts once.
    assert speakers(links / "val", links / "manifest.parquet") == wanted
    assert speakers(links / "val", group_by=r"_(\d)") == ["1", "1", "2", "2"]
    assert speakers(prepared["all"]) == ["all"] * 5
    with pytest.raises(TrainerError, match="there is no shard"):
        selection.find([shards / "none" / "000000.tar"])


@pytest.fixture(scope="module")
def results(models: Models, config: TrainConfig, prepared: dict[str, Path]) -> dict[str, Any]:
    return evaluate(models, [prepared["links"] / "val"], config=config, measures=FAST).results


def test_shards_and_more_processes_give_the_same_figures(
    models: Models, config: TrainConfig, prepared: dict[str, Path], results: dict[str, Any]
) -> None:
    place = prepared["shards"] / "val"
    sharded = evaluate(models, [place], config=config, measures=FAST, jobs=2).results
    assert results["measures"] == list(FAST)
    for group in ("anna", "ben", "all"):
        found, wanted = (
            one["groups"].get(group, one["all"])["finetuned"] for one in (sharded, results)
        )
        for name in FAST:
            assert found[name] == pytest.approx(wanted[name], rel=1e-9), (group, name)
    assert sharded["loss_crops"]["count"] == 4


def test_the_worst_are_named(results: dict[str, Any]) -> None:
    listed = results["worst"]["log_mel"]["value"]
    assert len(listed) == 4
    values = [one["value"] for one in listed]
    assert values == sorted(values, reverse=True)
    assert {one["group"] for one in listed} == {"anna", "ben"}


def test_only_as_many_as_fit_a_list_are_kept() -> None:
    measures = [Measure("good", "", 2, True, lambda *_: 0.0), MEASURES[2]]
    worst = Worst(measures, "finetuned")
    for number in range(3 * COUNT):
        row = {"finetuned_good": float(number), "base_good": 4.0, "finetuned_log_mel": float("nan")}
        worst.add(f"{number}.wav", "all", row)
    found = worst.to_dict()
    assert found.keys() == {"good"}
    assert [one["path"] for one in found["good"]["value"]] == [f"{n}.wav" for n in range(COUNT)]
    # What got better is not in the list of what lost.
    assert [one["value"] for one in found["good"]["change"]] == [-4.0, -3.0, -2.0, -1.0]


def test_measures_that_there_are_not_are_refused(models: Models, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="no measure beauty; known are stoi, pesq"):
        evaluate(models, [tmp_path], measures=["stoi", "beauty"])
