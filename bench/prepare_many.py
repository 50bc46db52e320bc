"""Time and memory of preparing many small recordings, and of preparing them again.

python bench/prepare_many.py --files 100000
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from snac_core.audio import wav_header

MIB = 2**20
SAMPLE_RATE = 8000
PER_FOLDER = 1000


class Peak:
    """Watches the resident memory of a process and of those that it starts."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.own = self.children = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            try:
                self.own = max(self.own, self._process.memory_info().rss)
                started = self._process.children(recursive=True)
                together = sum(child.memory_info().rss for child in started)
                self.children = max(self.children, together)
            except psutil.NoSuchProcess:
                # A child that has just ended; the next look finds who is left.
                continue

    def __enter__(self) -> Peak:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()


def make_recordings(folder: Path, count: int, seconds: float) -> None:
    """Write WAVs of noise, a thousand to a folder, no two alike."""
    random = np.random.default_rng(0)
    for number in range(count):
        parent = folder / f"{number // PER_FOLDER:05d}"
        if number % PER_FOLDER == 0:
            parent.mkdir(parents=True)
        samples = random.integers(-9000, 9000, round(seconds * SAMPLE_RATE), np.int16)
        header = wav_header(SAMPLE_RATE, len(samples))
        (parent / f"{number:07d}.wav").write_bytes(header + samples.tobytes())


def processor_seconds() -> float:
    """Return what the commands run so far took of a processor, without their worker processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def prepare(recordings: Path, dataset: Path, extra: list[str]) -> tuple[float, float, Peak]:
    """Run the command in a process of its own; return its seconds, and its memory.

    The seconds are those that passed, and those that it had of a processor.
    """
    command = [sys.executable, "-m", "trainer", "prepare", *extra]
    command += ["--input-dir", str(recordings), "--output-dir", str(dataset)]
    started, used = time.perf_counter(), processor_seconds()
    with (
        subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process,
        Peak(psutil.Process(process.pid)) as peak,
    ):
        errors = process.communicate()[1]
    if process.returncode:
        raise SystemExit(errors)
    return time.perf_counter() - started, processor_seconds() - used, peak


def idle_memory() -> int:
    """Return what the command has in memory before it does anything."""
    code = "import psutil, trainer.cli, trainer.preparation.prepare as _; "
    code += "print(psutil.Process().memory_info().rss)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("options", nargs="*", help="of prepare, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recordings, dataset = Path(folder) / "recordings", Path(folder) / "dataset"
        make_recordings(recordings, options.files, options.seconds)
        processors = len(os.sched_getaffinity(0))
        print(f"{platform.processor() or platform.machine()}, {processors} processors\n")
        print(f"{options.files} recordings of {options.seconds:g} s\n")
        print("| run | seconds | its own on a processor | most memory | of it before it began |")
        print("|---|---|---|---|---|")
        for run in ("first", "again"):
            seconds, used, peak = prepare(recordings, dataset, options.options)
            print(
                f"| {run} | {seconds:.1f} | {used:.1f} "
                f"| {peak.own / MIB:.0f} MiB and {peak.children / MIB:.0f} MiB in other processes "
                f"| {idle_memory() / MIB:.0f} MiB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
