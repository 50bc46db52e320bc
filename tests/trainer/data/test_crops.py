from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile

from tests.trainer.conftest import RATE, voice
from trainer.data.augment import Augmentation
from trainer.data.crops import MOST_GAIN_DB, at_loudness
from trainer.data.scan import scan
from trainer.data.segments import TrainingSegments


def test_silent_crops_are_drawn_again(tmp_path: Path) -> None:
    # A second of speech in three of silence.
    sound = np.concatenate([np.zeros(RATE), voice(1.0, 1), np.zeros(2 * RATE)])
    soundfile.write(tmp_path / "a.wav", sound, RATE)

    def loud(min_db: float | None) -> list[bool]:
        segments = TrainingSegments(
            scan(tmp_path),
            0.1,
            RATE,
            epoch=1,
            seed=7,
            augmentation=Augmentation(min_crop_db=min_db),
        )
        return [bool(segments[index].audio.any()) for index in range(len(segments))]

    plain, aware = loud(None), loud(-50.0)
    assert 0.1 < np.mean(plain) < 0.5
    assert np.mean(aware) > 1.0 - (1.0 - 1.1 / 4.0) ** 4 - 0.15
    # What is loud enough stays.
    assert all(after for before, after in zip(plain, aware, strict=True) if before)


@pytest.mark.parametrize("gain", [0.2, 1.0, 2.0])
def test_segments_are_brought_to_a_loudness(gain: float) -> None:
    samples = np.float32(gain) * voice(1.0, 2)
    found = pyloudnorm.Meter(RATE).integrated_loudness(at_loudness(samples, RATE, -26.0))
    assert math.isclose(found, -26.0, abs_tol=0.01)


def test_what_has_no_loudness_stays_and_nothing_clips() -> None:
    short, silent = voice(0.2, 1), np.zeros(RATE, np.float32)
    assert at_loudness(short, RATE, -20.0) is short
    assert at_loudness(silent, RATE, -20.0) is silent
    assert np.abs(at_loudness(voice(1.0, 3), RATE, 10.0)).max() == pytest.approx(1.0)
    faint = np.float32(0.03) * voice(1.0, 4)
    louder = at_loudness(faint, RATE, -20.0)
    assert np.allclose(louder, faint * np.float32(10 ** (MOST_GAIN_DB / 20)))
