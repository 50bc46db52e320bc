from __future__ import annotations

import logging
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import Dataset

from snac_core import audio
from snac_core.errors import AudioError
from tests.trainer.conftest import RATE, record, voice
from trainer.data.augment import Augmentation
from trainer.data.recordings import clip_of as opened
from trainer.data.recordings import read_part
from trainer.data.sampling import Wanted
from trainer.data.segments import (
    Bucketed,
    Clip,
    Segment,
    SegmentLoader,
    Shuffled,
    TrainingSegments,
    ValidationSegments,
    audio_files,
    crop,
    group_of,
    loader,
    readable,
    scan,
)
from trainer.data.unreadable import Unreadable
from trainer.errors import TrainerError
from trainer.preparation.prepare import prepare


def clip_of(path: Path) -> Clip:
    (clip,) = (clip for clip in scan(path.parent) if clip.path == path)
    return clip


def training(clips: list[Clip], seconds: float = 0.5, **changes: float) -> TrainingSegments:
    options = {"epoch": 1, "seed": 7, **changes}
    return TrainingSegments(clips, seconds, RATE, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [0.0, 0.1234, 0.75, 1.49])
def test_a_crop_is_a_slice_of_the_whole_file(tmp_path: Path, start: float) -> None:
    clip = clip_of(record(tmp_path / "a.wav", 2.0, seed=1))
    whole = audio.read(clip.path, RATE)
    first = int(start * RATE)
    found = crop(clip, start, 0.5, RATE)
    assert np.array_equal(found.audio[0].numpy(), whole[first : first + RATE // 2])
    assert found.own.all()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("start", [0.0, 0.3, 1.0, 1.5])
def test_a_resampled_crop_is_a_slice_of_the_whole_file_resampled(
    tmp_path: Path, rate: int, start: float
) -> None:
    clip = clip_of(record(tmp_path / "a.flac", 2.0, seed=2, rate=rate, channels=2))
    whole = audio.read(clip.path, RATE)
    found = crop(clip, start, 0.5, RATE).audio[0].numpy()
    per_second = math.gcd(rate, RATE)
    first = int(start * per_second) * RATE // per_second
    assert np.abs(found - whole[first : first + RATE // 2]).max() < 2e-4


def test_a_short_recording_is_padded_and_says_so(tmp_path: Path) -> None:
    clip = clip_of(record(tmp_path / "a.wav", 0.3, seed=3, rate=48000))
    segments = training([clip])
    assert len(segments) == 1
    found = segments[0]
    length = round(0.3 * RATE)
    assert found.audio.shape == found.own.shape == (1, RATE // 2)
    assert found.own[0, :length].all()
    assert not found.own[0, length:].any()
    assert not found.audio[0, length:].any()
    assert np.array_equal(found.audio[0, :length].numpy(), audio.read(clip.path, RATE))


def test_recordings_give_as_many_segments_as_fit(tmp_path: Path) -> None:
    for name, seconds in (("a", 2.0), ("b", 0.7), ("c", 0.1)):
        record(tmp_path / f"{name}.wav", seconds, seed=1)
    assert len(training(scan(tmp_path))) == 4 + 1 + 1


@pytest.mark.parametrize("how", [{}, {"copy": True}, {"flac": True}])
def test_what_prepare_measured_is_known_without_opening_it(
    recordings: Path, tmp_path: Path, how: dict[str, bool]
) -> None:
    prepare([recordings], tmp_path, train_ratio=0.7, jobs=1, **how)  # type: ignore[arg-type]
    found = scan(tmp_path / "train")
    assert found == [opened(path) for path in audio_files(tmp_path / "train")]
    for clip in found:
        clip.path.unlink()
        clip.path.write_text("no sound")
    if how.get("flac"):
        with pytest.raises(TrainerError, match="none of the 8 audio files"):
            scan(tmp_path / "train")
    else:
        assert scan(tmp_path / "train") == found
    (tmp_path / "manifest.parquet").write_text("no table")
    with pytest.raises(TrainerError, match=r"manifest\.parquet cannot be read"):
        scan(tmp_path / "train")


def test_a_recording_that_became_another_is_not_played_at_the_wrong_speed(tmp_path: Path) -> None:
    (clip,) = scan(record(tmp_path / "a.wav", 0.5, seed=1, rate=16000).parent)
    record(clip.path, 0.5, seed=1, rate=48000)
    with pytest.raises(AudioError, match="is at 48000 Hz now and was at 16000 Hz"):
        read_part(clip, 0.0, 0.1, RATE)


def test_segments_depend_on_seed_epoch_and_index_alone(recordings: Path) -> None:
    clips = scan(recordings)
    options = {"gain_probability": 0.5, "gain_db": (-6.0, 6.0)}

    def drawn(order: list[int], **changes: int) -> dict[int, torch.Tensor]:
        segments = training(clips, **options, **changes)  # type: ignore[arg-type]
        return {index: segments[index].audio for index in order}

    first = drawn([0, 1, 2, 3, 4])
    again = drawn([3, 1, 4, 0, 2])
    assert all(torch.equal(first[index], again[index]) for index in first)
    for other in (drawn([0, 1, 2, 3, 4], epoch=2), drawn([0, 1, 2, 3, 4], seed=8)):
        assert not all(torch.equal(first[index], other[index]) for index in first)


# Forking a process that has threads is what PyTorch does here, and newer Pythons warn of it.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_reads_what_the_process_itself_would(recordings: Path) -> None:
    segments = training(scan(recordings))
    order = Shuffled(len(segments), seed=7, epoch=1)
    here, there = (list(loader(segments, 4, workers, order)) for workers in (0, 1))
    assert len(here) == len(there) == len(segments) // 4
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.audio, other.audio)
        assert torch.equal(one.own, other.own)


def test_the_order_is_a_permutation_of_its_own_each_epoch() -> None:
    first, second = (list(Shuffled(50, seed=7, epoch=epoch)) for epoch in (1, 2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == list(Shuffled(50, seed=7, epoch=1))


def test_gain_changes_the_level_within_its_range_and_never_clips(tmp_path: Path) -> None:
    clip = clip_of(record(tmp_path / "a.wav", 0.5, seed=1))
    plain = training([clip], epoch=1)[0].audio
    gains = [
        float(
            training([clip], epoch=epoch, gain_probability=1.0, gain_db=(-6.0, 6.0))[0].audio.max()  # type: ignore[arg-type]
            / plain.max()
        )
        for epoch in range(20)
    ]
    assert 10 ** (-6 / 20) <= min(gains) < 0.9
    assert 1.1 < max(gains) <= 10 ** (6 / 20)
    loud = training([clip], gain_probability=1.0, gain_db=(60.0, 60.0))[0]  # type: ignore[arg-type]
    assert float(loud.audio.abs().max()) == pytest.approx(1.0)


def test_a_small_set_makes_a_small_batch_and_no_empty_one(recordings: Path) -> None:
    segments = training(scan(recordings)[:1])
    batches = list(loader(segments, 96, 0, Shuffled(len(segments), 1, 1)))
    assert [len(batch.audio) for batch in batches] == [len(segments)]


def test_validation_segments_are_fixed_and_spread(recordings: Path) -> None:
    clips = scan(recordings)
    sets = [ValidationSegments(clips, 0.5, RATE, limit=5, seed=1) for _ in range(2)]
    assert len(sets[0]) == 5
    assert sets[0].clips[0] == clips[0]
    assert sets[0].clips[-1] == clips[-1]
    for index in range(5):
        assert torch.equal(sets[0][index].audio, sets[1][index].audio)
    assert len(ValidationSegments(clips, 0.5, RATE, limit=100, seed=1)) == len(clips)


def test_unreadable_files_are_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = record(tmp_path / "deep" / "good.wav", 1.0, seed=1)
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    (tmp_path / "notes.txt").write_text("not even by its name")
    with caplog.at_level(logging.WARNING):
        assert [clip.path for clip in scan(tmp_path)] == [good]
    assert "skipped 3 of 4 files" in caplog.text
    for name in ("text.wav", "gone.wav", "empty.wav"):
        assert f"{name}: " in caplog.text


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="is not a folder"):
        audio_files(tmp_path / "none")
    with pytest.raises(TrainerError, match="no audio under"):
        scan(tmp_path)
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(TrainerError, match="none of the 1 audio files"):
        scan(tmp_path)


def test_a_file_that_breaks_later_becomes_a_segment_that_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cut", "gone", "good", "nan"):
        record(tmp_path / f"{name}.wav", 0.5, seed=1)
    clips = scan(tmp_path)
    os.truncate(tmp_path / "cut.wav", 20)
    (tmp_path / "gone.wav").unlink()
    broken = voice(0.5, 1)
    broken[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav: the audio has samples that are not finite"):
        crop(clips[3], 0.0, 0.5, RATE)
    with caplog.at_level(logging.WARNING):
        (batch,) = loader(training(clips), 4, 0)
    assert all(f"{name}.wav" in caplog.text for name in ("cut", "gone", "nan"))
    left = readable(batch)
    assert left.audio.shape == left.own.shape == (1, 1, RATE // 2)
    assert torch.equal(left.audio[0], training([clips[2]])[0].audio)
    whole = Segment(batch.audio[2:3], batch.own[2:3])
    assert readable(whole) is whole


def test_a_file_shorter_than_its_header_said(tmp_path: Path) -> None:
    clip = clip_of(record(tmp_path / "a.wav", 1.0, seed=1))
    record(tmp_path / "a.wav", 0.6, seed=1)
    found = crop(clip, 0.5, 0.5, RATE)
    assert int(found.own.sum()) == round(0.1 * RATE)
    with pytest.raises(AudioError, match=r"a\.wav"):
        crop(clip, 0.8, 0.2, RATE)


def test_groups_are_found_in_names() -> None:
    path = Path("/data/anna/anna-07_03.wav")
    assert group_of(path, "folder") == "anna"
    assert group_of(path, r"^[a-z]+-\d+") == "anna-07"
    assert group_of(path, r"-(\d+)_") == "07"
    with pytest.raises(TrainerError, match=r"'anna-07_03\.wav' does not match"):
        group_of(path, "^ben")
    with pytest.raises(TrainerError, match="is not a regular expression"):
        group_of(path, "(")


def test_a_weight_is_how_often_a_recording_counts(recordings: Path) -> None:
    plain = scan(recordings)
    segments = len(training(plain))

    def counts(weight: float, epoch: int = 1) -> Counter[Path]:
        # The first recording keeps its weight.
        clips = plain[:1] + [clip._replace(weight=weight) for clip in plain[1:]]
        found = training(clips, epoch=epoch)
        return Counter(found.clips[owner].path for owner in found._owner)

    once = counts(1.0)
    assert sum(once.values()) == segments
    first = once[plain[0].path]
    twice = counts(2.0)
    assert all(twice[clip.path] == 2 * once[clip.path] for clip in plain[1:])
    assert twice[plain[0].path] == first
    half = [counts(0.5, epoch) for epoch in range(8)]
    assert {sum(one.values()) for one in half} == {first + round((segments - first) / 2)}
    assert set().union(*half) == set(once)
    assert half[0] != half[1]


def same(one: list[Segment], other: list[Segment]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.audio, b.audio) and torch.equal(a.own, b.own)
        for a, b in zip(one, other, strict=True)
    )


LOADER_WARNINGS = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def with_loader_warnings(test: Any) -> Any:
    for mark in LOADER_WARNINGS:
        test = mark(test)
    return test


@with_loader_warnings
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 3])
def test_a_loader_goes_on_exactly(recordings: Path, workers: int, taken: int) -> None:
    segments = training(scan(recordings), 0.1, gain_probability=0.5, gain_db=(-6.0, 6.0))  # type: ignore[arg-type]

    def batches(done: int = 0, readers: int = workers) -> SegmentLoader:
        return loader(segments, 12, readers, Shuffled(len(segments), 7, 1), done)

    whole = list(batches())
    assert same(whole[taken:], list(batches(taken)))
    # Another number of processes that read makes no difference.
    assert same(whole[taken:], list(batches(taken, 1)))
    assert len(batches(taken)) == len(whole) - taken


def test_ranks_share_each_batch(recordings: Path) -> None:
    segments = training(scan(recordings), 0.2, augmentation=Augmentation(polarity_probability=0.5))  # type: ignore[arg-type]

    def batches(rank: int, world: int) -> list[Segment]:
        return list(loader(segments, 7, 0, Shuffled(len(segments), 7, 1, rank, world)))

    ranks = [batches(rank, 3) for rank in range(3)]
    joined = [
        Segment(torch.cat([part.audio for part in parts]), torch.cat([part.own for part in parts]))
        for parts in zip(*ranks, strict=True)
    ]
    assert same(batches(0, 1), joined)
    assert [len(one[0].audio) for one in ranks] == [2, 2, 3]
    order = Shuffled(len(segments), 7, 1, 2, 3)
    assert loader(segments, 7, 0, order).first == 4
    assert loader(segments, 7, 0, order).size == 7


class Draws(Dataset[Segment]):
    """What the global generators of the process that reads would give."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Segment:
        numbers = torch.tensor([torch.rand(()).item(), float(np.random.random())])
        return Segment(numbers, torch.ones(2))


@with_loader_warnings
def test_workers_are_seeded_by_epoch_and_rank_and_take_nothing_from_this_process() -> None:
    def drawn(epoch: int, rank: int) -> list[float]:
        torch.manual_seed(123)
        found = list(loader(Draws(), 2, 1, Shuffled(4, 7, epoch, rank, 2)))
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.manual_seed(123)))
        return torch.cat([batch.audio.flatten() for batch in found]).tolist()

    first = drawn(1, 0)
    assert first == drawn(1, 0)
    assert not set(first) & set(drawn(2, 0))
    assert not set(first) & set(drawn(1, 1))


def test_short_recordings_make_short_batches(tmp_path: Path) -> None:
    for number in range(8):
        record(tmp_path / f"short{number}.wav", 0.1 + 0.002 * number, number, rate=16000)
        record(tmp_path / f"long{number}.wav", 0.7, number)
    clips = scan(tmp_path)
    segments = training(clips)
    order = Bucketed(segments.own_samples, 7, 1, multiple=128, longest=RATE // 2)
    found = list(loader(segments, 4, 0, order))
    lengths = sorted(batch.audio.shape[-1] for batch in found)
    assert lengths[2:] == [RATE // 2] * 2
    assert all(length % 128 == 0 and length < 0.12 * RATE for length in lengths[:2])
    for batch in found:
        assert batch.audio.shape == batch.own.shape
        assert bool(batch.own.amax(dim=(1, 2)).all())
        assert batch.own.mean() > 0.85
    # A crop is the same as in a batch of full length.
    (short,) = [clip for clip in clips if clip.path.name == "short3.wav"]
    number = clips.index(short)
    whole, cut = segments[number], segments[Wanted(number, 3000)]
    assert torch.equal(whole.audio[:, :3000], cut.audio)


@with_loader_warnings
def test_a_damaged_recording_is_named_once_in_a_whole_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bad", "good"):
        record(tmp_path / f"{name}.wav", 1.0, seed=1)
    clips = scan(tmp_path)
    os.truncate(tmp_path / "bad.wav", 20)
    unreadable = Unreadable(tmp_path / "unreadable.csv")
    for epoch in (1, 2):
        segments = training(clips, 0.5, epoch=epoch, unreadable=unreadable)  # type: ignore[arg-type]
        order = Shuffled(len(segments), 7, epoch)
        kept = [len(readable(batch).audio) for batch in loader(segments, 2, 1, order)]
        assert sum(kept) == 2
    assert list(unreadable.all()) == [str(tmp_path / "bad.wav")]
    assert len((tmp_path / "unreadable.csv").read_text().splitlines()) == 2
