"""Augmentation of training segments, for small corpora.

The augmented segment is both input and target: the codec learns to reproduce noisy or
compressed speech as it is, not to clean it.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import soundfile

from snac_core.audio import OPUS_SAMPLE_RATES
from snac_core.types import Samples
from trainer.data.acoustics import add_reverberation, add_silence, equalize, limit_band
from trainer.data.crops import at_loudness
from trainer.errors import TrainerError

CODECS = {"opus": ("OGG", "OPUS"), "vorbis": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}
"""Names of lossy codecs, and what libsndfile calls their container and coding."""

MP3_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

BLOCK_SAMPLES = 2**15

SPEED_STREAM = 1
"""Keeps the draw of a segment's speed apart from the others, which come after it is read."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The augmentations of a segment, applied in this order, each with its own probability.

    Parameters
    ----------
    min_crop_db
        A crop whose RMS is below this (dB of full scale) is drawn again, up to three times.
    loudness
        The segment is first brought to this loudness (LUFS); None leaves it as it is.
    speed_probability, speed_range
        The segment is played so many times as fast, by resampling: pitch and formants move
        with it. In steps of a hundredth.
    reverb_probability, reverb_seconds
        A room is added in which sound falls by 60 dB in so many seconds.
    equalizer_probability, equalizer_db
        One part of the spectrum is raised or lowered by so many dB.
    noise_probability, noise_snr_db
        White noise is added, at a level so many dB below the segment's.
    band_limit_probability, band_limit_hz
        What lies above so many Hz is removed.
    codec_probability, codecs, codec_quality
        The segment is coded and decoded by one of ``codecs`` (``opus``, ``vorbis``, ``mp3``)
        at a quality drawn from the range: 0 is the smallest file, 1 the largest.
    silence_probability
        A stretch of the segment becomes digital silence.
    gain_probability, gain_db
        The level changes by so many dB; never so much that it would clip, as that would
        teach distortion that is in no recording.
    polarity_probability
        The sign of all samples changes, which is inaudible and should not affect a codec.
    """

    min_crop_db: float | None = None
    loudness: float | None = None
    noise_probability: float = 0.0
    noise_snr_db: tuple[float, float] = (10.0, 40.0)
    codec_probability: float = 0.0
    codecs: tuple[str, ...] = ("opus", "vorbis", "mp3")
    codec_quality: tuple[float, float] = (0.0, 0.7)
    gain_probability: float = 0.0
    gain_db: tuple[float, float] = (0.0, 0.0)
    polarity_probability: float = 0.0
    speed_probability: float = 0.0
    speed_range: tuple[float, float] = (0.9, 1.1)
    reverb_probability: float = 0.0
    reverb_seconds: tuple[float, float] = (0.1, 0.5)
    equalizer_probability: float = 0.0
    equalizer_db: tuple[float, float] = (-9.0, 9.0)
    band_limit_probability: float = 0.0
    band_limit_hz: tuple[float, float] = (3400.0, 10000.0)
    silence_probability: float = 0.0

    def check(self, sample_rate: int) -> None:
        """Raise TrainerError for a codec that is unknown or has no such sample rate (Hz)."""
        if not self.codec_probability:
            return
        rates = {"opus": OPUS_SAMPLE_RATES, "mp3": MP3_SAMPLE_RATES, "vorbis": (sample_rate,)}
        if not self.codecs:
            raise TrainerError(f"codecs must be some of {', '.join(CODECS)}, not none")
        for codec in self.codecs:
            if codec not in CODECS:
                raise TrainerError(f"codecs must be of {', '.join(CODECS)}, not {codec!r}")
            if sample_rate not in rates[codec]:
                raise TrainerError(
                    f"{codec} cannot hold {sample_rate} Hz, only {list(rates[codec])}: leave it "
                    f"out of the codecs"
                )

    def speed(self, *draw: int) -> float:
        """Return how many times as fast a segment is to be played; ``draw`` decides."""
        if not self.speed_probability:
            return 1.0
        random = np.random.default_rng((*draw, SPEED_STREAM))
        drawn = random.random() < self.speed_probability
        return round(random.uniform(*self.speed_range), 2) if drawn else 1.0

    def __call__(self, samples: Samples, sample_rate: int, random: np.random.Generator) -> Samples:
        """Return the segment changed in all but its speed, as ``random`` decides.

        Its length stays.

        Parameters
        ----------
        samples
            float32, one-dimensional, without padding.
        sample_rate
            Hz.
        random
            Each kind of change draws from a stream of its own, so that turning one on leaves
            the others as they were.
        """
        noise, coding, level, sign, room, tone, band, pause = random.spawn(8)
        if not len(samples):
            return samples
        if self.loudness is not None:
            samples = at_loudness(samples, sample_rate, self.loudness)
        if room.random() < self.reverb_probability:
            seconds = room.uniform(*self.reverb_seconds)
            samples = add_reverberation(samples, sample_rate, seconds, room)
        if tone.random() < self.equalizer_probability:
            samples = equalize(samples, sample_rate, tone.uniform(*self.equalizer_db), tone)
        if noise.random() < self.noise_probability:
            samples = add_noise(samples, noise.uniform(*self.noise_snr_db), noise)
        if band.random() < self.band_limit_probability:
            samples = limit_band(samples, sample_rate, band.uniform(*self.band_limit_hz))
        if coding.random() < self.codec_probability:
            codec = self.codecs[coding.integers(len(self.codecs))]
            quality = coding.uniform(*self.codec_quality)
            samples = through_codec(samples, sample_rate, codec, quality)
        if pause.random() < self.silence_probability:
            samples = add_silence(samples, pause)
        if level.random() < self.gain_probability:
            gain = 10.0 ** (level.uniform(*self.gain_db) / 20.0)
            peak = float(np.abs(samples).max())
            samples = samples * np.float32(min(gain, 1.0 / max(peak, 1e-9)))
        if sign.random() < self.polarity_probability:
            samples = -samples
        return samples


def add_noise(samples: Samples, snr_db: float, random: np.random.Generator) -> Samples:
    """Return samples with white noise, their power ``snr_db`` above the noise's; never clipped."""
    power = float(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0
    level = (power / 10.0 ** (snr_db / 10.0)) ** 0.5
    noisy: Samples = samples + (level * random.standard_normal(len(samples))).astype(np.float32)
    noisy /= np.float32(max(1.0, float(np.abs(noisy).max(initial=0.0))))
    return noisy


def through_codec(samples: Samples, sample_rate: int, codec: str, quality: float) -> Samples:
    """Return what a lossy codec makes of samples.

    Parameters
    ----------
    samples
        float32, one-dimensional.
    sample_rate
        Hz; one that the codec has.
    codec
        A key of ``CODECS``.
    quality
        0 for the smallest file, 1 for the largest.

    Returns
    -------
    numpy.ndarray
        As many samples; zeros where the decoder gives fewer.
    """
    container, coding = CODECS[codec]
    memory = io.BytesIO()
    with soundfile.SoundFile(
        memory,
        "w",
        sample_rate,
        1,
        coding,
        format=container,
        # At 1.0 exactly, LAME is asked for a bit rate that it does not have.
        compression_level=min(1.0 - quality, 0.99),
    ) as file:
        for start in range(0, len(samples), BLOCK_SAMPLES):
            file.write(samples[start : start + BLOCK_SAMPLES])
    memory.seek(0)
    decoded = soundfile.read(memory, dtype=np.float32)[0][: len(samples)]
    result = np.zeros_like(samples)
    result[: len(decoded)] = decoded
    return result
