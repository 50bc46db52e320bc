"""Memory of reading what the optional decoder reads, and of large tags, beside the file itself.

    python bench/media_memory.py [--hours 1]

Each file is in memory, as the service has it, before anything is counted. What is printed is the
peak of this process over that, the samples that are returned among it, and the peak of the child
process that decodes.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import soundfile
from machine import describe

from snac_core import audio
from snac_core.audio import media

MIB = 2**20
RATE = 24000


def recorded(hours: float, container: str, codec: str) -> bytes:
    """Return a recording of noisy tones at 44.1 kHz."""
    rate, memory = 48000 if codec == "libopus" else 44100, io.BytesIO()
    random = np.random.default_rng(0)
    with av.open(memory, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 128_000
        resampler = av.AudioResampler(
            format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or None
        )
        for _ in range(max(1, round(360 * hours))):
            wave = 0.1 * random.standard_normal(10 * rate) + 0.2 * np.sin(np.arange(10 * rate) / 9)
            frame = av.AudioFrame.from_ndarray(wave[None].astype("f4"), "fltp", "mono")
            frame.sample_rate = rate
            for part in resampler.resample(frame):
                file.mux(stream.encode(part))
        for rest in [*resampler.resample(None), None]:
            file.mux(stream.encode(rest))
    return memory.getvalue()


def tagged(tag_bytes: int) -> bytes:
    """Return a second of MP3 behind a tag as of an album's pictures."""
    memory = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    soundfile.write(memory, noise, RATE, format="MP3")
    size = bytes(tag_bytes >> 7 * n & 127 for n in (3, 2, 1, 0))
    return b"ID3\x04\0\0" + size + b"\xff" * tag_bytes + memory.getvalue()


class Peaks:
    """The peaks of this process and of its children while the block runs."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.idle = self.own = self._process.memory_info().rss
        self.child = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.own = max(self.own, self._process.memory_info().rss)
            for child in self._process.children():
                try:
                    self.child = max(self.child, child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    def __enter__(self) -> Peaks:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended.set()
        self._thread.join()


def row(what: str, path: Path) -> str:
    """Read a file that is in memory; return a row of the table."""
    data = path.read_bytes()
    with Peaks() as peaks:
        started = time.perf_counter()
        samples = audio.read(data, RATE)
        took = time.perf_counter() - started
    return (
        f"| {what} | {len(data) / MIB:.1f} MiB | {len(samples) / RATE:.1f} s in {took:.1f} s "
        f"| +{(peaks.own - peaks.idle) / MIB:.0f} MiB | {samples.nbytes / MIB:.0f} MiB "
        f"| {peaks.child / MIB:.0f} MiB |"
    )


def files(hours: float) -> Iterator[tuple[str, bytes]]:
    """Yield what each file is, and the file."""
    yield f"{hours:g} h of AAC in MP4", recorded(hours, "mp4", "aac")
    yield f"{hours:g} h of AAC (ADTS)", recorded(hours, "adts", "aac")
    yield f"{hours:g} h of Opus in WebM", recorded(hours, "webm", "libopus")
    yield "1 s of MP3 behind a tag of 100 MB", tagged(100_000_000)


def main() -> int:
    """Print a Markdown table; each row is of a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--row", nargs=2, metavar=("WHAT", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(row(options.row[0], Path(options.row[1])))
        return 0
    print(f"{describe()}; a child may have {media.MEMORY_BYTES / MIB:.0f} MiB\n")
    print("| recording | file | audio | this process | the samples | the child |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording"
        for what, data in files(options.hours):
            path.write_bytes(data)
            subprocess.run([sys.executable, __file__, "--row", what, str(path)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
