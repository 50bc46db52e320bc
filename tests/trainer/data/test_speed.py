from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from trainer.data.augment import Augmentation
from trainer.data.recordings import clip_of, read_at_speed
from trainer.data.segments import TrainingSegments, scan

RATE = 24000


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """A recording of one second of 440 Hz at 16 kHz."""
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000), 16000)
    return path


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_a_recording_plays_as_many_times_as_fast(tone: Path, speed: float) -> None:
    samples = read_at_speed(clip_of(tone), 0.1, RATE // 2, RATE, speed)
    assert samples.shape == (RATE // 2,)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * RATE))
    assert np.argmax(spectrum) / 8 == pytest.approx(440 * speed, rel=0.01)


def test_segments_of_another_speed_are_as_long_and_the_same_every_time(tone: Path) -> None:
    augmentation = Augmentation(speed_probability=1.0, speed_range=(1.1, 1.1))

    def read() -> TrainingSegments:
        return TrainingSegments(
            scan(tone.parent), 0.5, RATE, epoch=1, seed=1, augmentation=augmentation
        )

    segment = read()[0]
    assert segment.audio.shape == (1, RATE // 2)
    assert segment.own.all()
    assert np.array_equal(segment.audio.numpy(), read()[0].audio.numpy())


def test_a_recording_too_short_for_its_speed_is_padded(tone: Path) -> None:
    fast = Augmentation(speed_probability=1.0, speed_range=(1.2, 1.2))
    segment = TrainingSegments(scan(tone.parent), 1.0, RATE, epoch=1, seed=1, augmentation=fast)[0]
    assert segment.own.sum() == pytest.approx(RATE / 1.2, rel=0.01)
