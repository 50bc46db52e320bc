from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import RATE, record
from trainer import config as configuration
from trainer.config import Source
from trainer.data.sources import TrainingData, recordings
from trainer.errors import TrainerError
from trainer.preparation.prepare import prepare

SAMPLES = RATE // 4


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of recordings, and the first of them as shards."""
    folder = tmp_path_factory.mktemp("places")
    for number in range(10):
        record(folder / "one" / f"{number}.wav", 0.5, number)
        record(folder / "two" / f"{number}.wav", 0.1, number)
    prepare([folder / "one"], folder / "shards", shards=True, shard_recordings=3)
    return folder


def data(settings: dict[str, Any], train_data: object, **changes: Any) -> TrainingData:
    return TrainingData(configuration.parse({**settings, "train_data": train_data, **changes}))


def steps(found: TrainingData, **options: int) -> int:
    return len(found.batches(1, SAMPLES, 2, RATE, **options))


def test_sources_count_as_often_as_their_weights_say(
    places: Path, settings: dict[str, Any]
) -> None:
    one, two = str(places / "one"), str(places / "two")
    assert steps(data(settings, one)) == 10
    assert steps(data(settings, [one, two])) == 15
    assert steps(data(settings, [{"path": one, "weight": 0.5}, {"path": two, "weight": 3}])) == 20
    both = data(settings, [one, {"path": two, "weight": 3}])
    assert both.recordings == 20
    assert both.seconds == pytest.approx(6.0)


def test_sources_are_checked(places: Path, settings: dict[str, Any]) -> None:
    one, shards = str(places / "one"), str(places / "shards" / "train")
    for given, said in (
        ([], "train_data must have at least 1 item"),
        ([{"path": one, "weigth": 1}], "did you mean 'weight'"),
        ([{"path": one, "weight": 0}], "weight must be greater than 0"),
        ([{"weight": 1}], r"lacks train_data\[0\]\.path"),
        (7, "train_data must be a valid list"),
        ([one, shards], "not some of each"),
    ):
        with pytest.raises(TrainerError, match=said):
            data(settings, given)
    with pytest.raises(TrainerError, match="bucket_by_length sorts recordings in folders"):
        data(settings, shards, bucket_by_length=True)
    config = configuration.parse({**settings, "train_data": [one, {"path": shards, "weight": 2}]})
    assert config.train_data == (Source(one), Source(shards, 2.0))
    assert configuration.parse(config.to_dict()) == config


def test_shards_are_data_like_any_other(places: Path, settings: dict[str, Any]) -> None:
    shards = str(places / "shards" / "train")
    found = data(settings, shards, shuffle_buffer=4)
    assert found.recordings == 9
    batches = list(found.batches(1, SAMPLES, 2, RATE))
    assert len(batches) == found.recordings
    assert batches[0].audio.shape == (2, 1, SAMPLES)
    assert sum(map(len, recordings(f"{places}/shards/val/*.tar"))) == 1
    assert sum(map(len, recordings(places / "one"))) == 10
    with pytest.raises(TrainerError, match="lower num_workers to 1"):
        data(settings, shards, num_workers=3).batches(1, SAMPLES, 2, RATE, rank=0, world=2)


def test_what_happens_to_segments_is_configured(places: Path, settings: dict[str, Any]) -> None:
    one = str(places / "one")
    changes = {"gain_probability": 0.0, "polarity_probability": 0.0}
    plain = data(settings, one, **changes).batches(1, SAMPLES, 2, RATE)
    flipped = data(settings, one, **{**changes, "polarity_probability": 1.0})
    for before, after in zip(plain, flipped.batches(1, SAMPLES, 2, RATE), strict=True):
        assert (before.audio == -after.audio).all()
    with pytest.raises(TrainerError, match="codecs must be of"):
        data(settings, one, codec_probability=0.1, codecs=["g711"]).batches(1, SAMPLES, 2, RATE)


def test_batches_of_short_recordings_may_be_short(places: Path, settings: dict[str, Any]) -> None:
    both = [str(places / "one"), str(places / "two")]
    found = data(settings, both, bucket_by_length=True).batches(1, SAMPLES, 5, RATE, multiple=64)
    lengths = [batch.audio.shape[-1] for batch in found]
    assert lengths.count(SAMPLES) == 4
    assert [length for length in lengths if length != SAMPLES] == [2432] * 2
