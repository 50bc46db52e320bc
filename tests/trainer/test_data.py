from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from snac_core import audio
from snac_core.errors import AudioError
from tests.trainer.conftest import RATE, record, voice
from trainer.data import (
    Clip,
    Segment,
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
from trainer.errors import TrainerError


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
    with pytest.raises(AudioError, match=r"nan\.wav has samples that are not finite"):
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
