from __future__ import annotations

import io
import logging
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import webdataset

from tests.trainer.conftest import RATE, record, voice
from trainer.data.recordings import clip_of
from trainer.data.segments import Segment, SegmentLoader, ValidationSegments, crop, loader, readable
from trainer.data.shard_files import INDEX, is_shards, scan_shards, shard_paths
from trainer.data.shards import ShardSegments, shards_of
from trainer.data.unreadable import Unreadable
from trainer.errors import TrainerError
from trainer.preparation.prepare import prepare

SECONDS = 0.25

# Newer Pythons warn of forking a process that has threads, and PyTorch of few processors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty recordings, one with a length of its own, in shards of six."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(40):
        suffix = ("wav", "flac", "ogg")[number % 3]
        record(folder / "in" / f"{number}.{suffix}", 0.2 + 0.02 * number, number, rate=16000)
    prepare([folder / "in"], folder / "out", train_ratio=0.8, shards=True, shard_recordings=6)
    return folder / "out"


def batches(place: Path | str, workers: int = 0, **options: Any) -> SegmentLoader:
    settings = {"epoch": 1, "seed": 7, "buffer": 5, **options}
    shards = shards_of(shard_paths(place), settings.pop("weight", 1.0))
    segments = ShardSegments(shards, SECONDS, RATE, settings.pop("batch", 4), **settings)
    return loader(segments, 0, workers)


def same(one: list[Segment], other: list[Segment]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.audio, b.audio) and torch.equal(a.own, b.own)
        for a, b in zip(one, other, strict=True)
    )


def test_a_recording_in_a_shard_is_what_it_was(dataset: Path) -> None:
    clips = scan_shards(shard_paths(dataset / "val"))
    assert len(clips) == 8
    originals = [clip_of(path) for path in sorted((dataset.parent / "in").iterdir())]
    for clip in clips:
        alike = [one for one in originals if one.frames == clip.frames]
        assert any(
            torch.equal(crop(clip, 0.05, 0.1, RATE).audio, crop(one, 0.05, 0.1, RATE).audio)
            for one in alike
        )


def test_validation_reads_shards_as_it_reads_folders(dataset: Path) -> None:
    segments = ValidationSegments(
        scan_shards(shard_paths(dataset / "val")), SECONDS, RATE, limit=5, seed=1
    )
    (batch,) = loader(segments, 8, 0)
    assert len(readable(batch).audio) == 5


def test_shards_are_named_by_folder_or_pattern(dataset: Path, tmp_path: Path) -> None:
    train = dataset / "train"
    assert [Path(path).name for path in shard_paths(train)] == [f"{n:06d}.tar" for n in range(6)]
    assert shard_paths(f"{train}/*.tar") == shard_paths(f"{train}/{{000000..000005}}.tar")
    assert len(shard_paths(f"{train}/{{000000..000002}}.tar")) == 3
    assert is_shards(train)
    assert is_shards(f"{train}/*.tar")
    assert not is_shards(tmp_path)
    with pytest.raises(TrainerError, match=r"there is no shard .*000009\.tar"):
        shard_paths(f"{train}/{{000005..000009}}.tar")
    with pytest.raises(TrainerError, match="there is no shard"):
        shard_paths(tmp_path)


def test_an_epoch_has_as_many_segments_as_the_shards(dataset: Path) -> None:
    shards = shards_of(shard_paths(dataset / "train"))
    expected = sum(max(1, int(s / SECONDS)) for shard in shards for s in shard.seconds)
    found = list(batches(dataset / "train"))
    assert len(found) == len(batches(dataset / "train")) == expected // 4
    assert all(batch.audio.shape == (4, 1, round(SECONDS * RATE)) for batch in found)
    assert all(readable(batch) is batch for batch in found)
    twice = len(batches(dataset / "train", weight=2.0))
    assert twice == 2 * expected // 4
    assert len(batches(dataset / "train", weight=0.5)) == expected // 8


def crops(found: list[Segment]) -> Counter[bytes]:
    return Counter(one.numpy().tobytes() for batch in found for one in batch.audio)


def test_ranks_and_workers_share_the_shards(dataset: Path) -> None:
    train = dataset / "train"
    alone = crops(list(batches(train, buffer=1)))
    ranks = [list(batches(train, rank=rank, world=2, buffer=1)) for rank in range(2)]
    assert [len(found) for found in ranks] == [len(batches(train))] * 2
    assert all(len(batch.audio) == 2 for found in ranks for batch in found)
    parts = [crops(found) for found in ranks]
    # A crop is the same whoever makes it, and on their first lap no two make the same.
    assert sum((parts[0] & parts[1]).values()) <= 4
    assert sum(((parts[0] + parts[1]) & alone).values()) > 0.8 * alone.total()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_gives_the_same_and_another_epoch_does_not(
    dataset: Path, workers: int
) -> None:
    first = list(batches(dataset / "train", workers))
    assert same(first, list(batches(dataset / "train", workers)))
    assert not same(first, list(batches(dataset / "train", workers, epoch=2)))
    shuffled = crops(first)
    assert list(shuffled) != list(crops(list(batches(dataset / "train", workers, buffer=1))))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 4, 7])
def test_a_loader_goes_on_exactly(dataset: Path, workers: int, taken: int) -> None:
    # Blocks of five and batches of four: every place in a block is stopped at.
    whole = list(batches(dataset / "train", workers))
    stopped = batches(dataset / "train", workers)
    reading = iter(stopped)
    head = [next(reading) for _ in range(taken)]
    state = stopped.state_dict()
    del reading
    resumed = batches(dataset / "train", workers)
    resumed.load_state_dict(state)
    assert same(whole, head + list(resumed))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_left_of_an_epoch_may_be_read_by_others(dataset: Path, workers: int) -> None:
    whole = len(batches(dataset / "train"))
    rest = list(batches(dataset / "train", workers, done=5))
    assert len(rest) == whole - 5
    # They begin as far into their shards as there were batches.
    first = batches(dataset / "train", workers, buffer=1)
    later = batches(dataset / "train", workers, buffer=1, done=whole // 2)
    assert not set(crops([next(iter(first))])) & set(crops([next(iter(later))]))


def foreign(path: Path, contents: dict[str, bytes]) -> Path:
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        for name, data in contents.items():
            key, _, suffix = name.partition(".")
            tar.write({"__key__": key, suffix: data})
    return path


def wav(seconds: float, seed: int) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, voice(seconds, seed), RATE, format="WAV")
    return memory.getvalue()


def test_shards_of_others_need_no_index(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = {f"{n}.wav": wav(0.3, n) for n in range(4)} | {"a.txt": b"hi", "b.wav": b"none"}
    foreign(tmp_path / "a.tar", contents)
    with caplog.at_level(logging.WARNING):
        clips = scan_shards(shard_paths(tmp_path))
    assert len(clips) == 4
    assert "skipping b.wav in" in caplog.text
    assert not (tmp_path / INDEX).exists()
    unreadable = Unreadable()
    found = list(batches(tmp_path, batch=2, unreadable=unreadable))
    assert len(found) == 2
    assert all(len(readable(batch).audio) == 2 for batch in found)


def test_what_breaks_in_a_shard_is_named_once(tmp_path: Path) -> None:
    broken = voice(0.3, 5)
    broken[100:] = np.nan
    memory = io.BytesIO()
    soundfile.write(memory, broken, RATE, format="WAV", subtype="FLOAT")
    foreign(tmp_path / "a.tar", {"0.wav": wav(0.3, 0), "1.wav": memory.getvalue()})
    foreign(tmp_path / "b.tar", {f"{n}.wav": wav(0.3, n) for n in range(6)})
    with tarfile.open(tmp_path / "b.tar") as tar:
        member = tar.getmembers()[3]
    shards = shards_of(shard_paths(tmp_path))
    with (tmp_path / "b.tar").open("r+b") as file:
        file.truncate(member.offset_data + 100)
    unreadable = Unreadable(tmp_path / "unreadable.csv")
    segments = ShardSegments(
        shards, SECONDS, RATE, 2, epoch=1, seed=1, buffer=9, unreadable=unreadable
    )
    for _ in range(2):
        found = list(loader(segments, 0, 1))
        assert all(len(readable(batch).audio) == 2 for batch in found)
        assert len(found) == 4
    reasons = unreadable.all()
    assert sorted(reasons) == [f"{tmp_path}/a.tar#1.wav", f"{tmp_path}/b.tar"]
    assert "not finite" in reasons[f"{tmp_path}/a.tar#1.wav"]
    assert "damaged" in reasons[f"{tmp_path}/b.tar"]


def test_shards_of_nothing_are_an_error(tmp_path: Path) -> None:
    foreign(tmp_path / "a.tar", {"0.wav": wav(0.3, 0)})
    shards = shards_of(shard_paths(tmp_path))
    foreign(tmp_path / "a.tar", {"0.wav": b"broken"})
    segments = ShardSegments(shards, SECONDS, RATE, 1, epoch=1, seed=1)
    with pytest.raises(TrainerError, match=r"no recording can be read in .*a\.tar"):
        next(iter(loader(segments, 0, 0)))
    with pytest.raises(TrainerError, match="none of the recordings"):
        shards_of(shard_paths(tmp_path))
    (tmp_path / "a.tar").write_text("no tar")
    with pytest.raises(TrainerError, match="is no tar file"):
        scan_shards(shard_paths(tmp_path))


def test_a_lap_that_draws_nothing_is_no_damage(tmp_path: Path) -> None:
    foreign(tmp_path / "a.tar", {"0.wav": wav(0.3, 0)})
    found = list(batches(tmp_path, batch=1, weight=0.05, buffer=2))
    assert len(found) == 1
    broken = voice(0.3, 5)
    broken[100:] = np.nan
    memory = io.BytesIO()
    soundfile.write(memory, broken, RATE, format="WAV", subtype="FLOAT")
    foreign(tmp_path / "a.tar", {"0.wav": memory.getvalue()})
    with pytest.raises(TrainerError, match="no recording can be read"):
        next(iter(batches(tmp_path, batch=1, weight=0.3)))


def test_too_few_shards_or_segments_for_the_processes(dataset: Path) -> None:
    with pytest.raises(TrainerError, match="6 shards cannot be dealt out to 7 processes"):
        next(iter(batches(dataset / "train", rank=0, world=7, batch=8)))
    with pytest.raises(TrainerError, match="a batch of 1 segments cannot be shared by 2"):
        batches(dataset / "train", rank=0, world=2, batch=1)
