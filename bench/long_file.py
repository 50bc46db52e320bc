"""Memory of encoding a long file, against the idle process; and that windows change nothing.

python bench/long_file.py --hours 1
"""

from __future__ import annotations

import argparse
import math
import platform
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile

import snac_core
from snac_core import audio
from snac_core.streaming import lookahead

MIB = 2**20


class Peak:
    """Watches the resident memory of this process from a thread."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.idle = self.most = self._process.memory_info().rss
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, self._process.memory_info().rss)

    def __enter__(self) -> Peak:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()


def write_speech_like(path: Path, seconds: int, rate: int) -> None:
    """Write a WAV of ``seconds`` of modulated harmonics and noise, a minute at a time."""
    random = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for start in range(0, seconds, 60):
            time_axis = start + np.arange(60 * rate) / rate
            pitch = 120 + 20 * np.sin(2 * np.pi * 0.3 * time_axis)
            voice = sum(np.sin(2 * np.pi * k * pitch * time_axis) / k for k in range(1, 6))
            loudness = 0.1 * (1 + np.sin(2 * np.pi * 3 * time_axis))
            file.write(loudness * voice + 0.01 * random.standard_normal(len(time_axis)))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=0.1)
    parser.add_argument("--model", default="starter")
    options = parser.parse_args()
    codec = snac_core.load(options.model, device="cpu")
    seconds = round(options.hours * 3600)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        write_speech_like(path, seconds, codec.sample_rate)
        (reference,) = codec.encode([audio.read(path, codec.sample_rate)[: 20 * codec.sample_rate]])
        with Peak() as peak:
            started = time.perf_counter()
            wave = audio.read(path, codec.sample_rate)
            (codes,) = codec.encode([wave])
            elapsed = time.perf_counter() - started
    # The last frames of the short piece border on its end, not on more audio.
    ahead = lookahead(codec.config, "encode")
    frames = reference.frames(codec.config) - math.ceil(ahead / codec.config.frame_samples)
    same = all(
        np.array_equal(alone[: frames * count], whole[: frames * count])
        for alone, whole, count in zip(
            reference.levels, codes.levels, codec.config.codes_per_frame, strict=True
        )
    )
    print(f"{platform.processor() or platform.machine()}, model {codec.version}\n")
    print("| audio | read and encode | over the idle process | the samples alone | prefix |")
    print("|---|---|---|---|---|")
    print(
        f"| {seconds} s | {seconds / elapsed:.1f} x real time "
        f"| {(peak.most - peak.idle) / MIB:.0f} MiB | {wave.nbytes / MIB:.0f} MiB "
        f"| {'same codes' if same else 'OTHER CODES'} as its first 20 s alone |"
    )


if __name__ == "__main__":
    main()
