"""How `snac-bulk encode` compares with a plain loop around the engine, on this machine.

    python bench/corpora.py RECORDINGS
    python bench/corpora.py RECORDINGS --clips 200 --short 1000 --rows 1000000

Prints, for clips as they are and as WAV, how fast one process a core goes that reads, decodes,
resamples and encodes clip after clip, how fast the engine alone goes in it, and how fast the
pipeline; then clips of 0.3 s against clips of 3 s; then the planning of a manifest. The times of
the pipeline are those of all clips less those of a tenth of them, so that its start, which the
last column has, is not in them. Beside wall time, which other programs distort, there is the CPU
time that a second of audio takes, in the pipeline that of all its processes, Ray's own among them.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import psutil
import soundfile
import torch
from machine import describe

from bulk import cluster
from bulk.encode import CLIPS_PER_SHARD, EncodeOptions, encode
from bulk.plan import Done, make_plan
from bulk.sources import Options, find_source
from snac_core import audio
from snac_core.store import load

T = TypeVar("T")
SUFFIXES = audio.AUDIO_SUFFIXES
HEAD = (
    "| clips | | audio | engine | plain loop | pipeline | of the plain loop | of the engine "
    "| ms of CPU: plain loop | pipeline | ratio | start of the pipeline |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
SPAWN = multiprocessing.get_context("spawn")
"""For measurements in processes of their own, which inherit no threads and no memory."""


@dataclasses.dataclass
class Loop:
    """What the plain loop took: seconds of one process, of reading and of encoding, and CPU's."""

    audio: float = 0.0
    reading: float = 0.0
    encoding: float = 0.0
    cpu: float = 0.0


@dataclasses.dataclass
class Run:
    """What the pipeline took: wall and CPU seconds with its start, and the audio."""

    wall: float
    cpu: float
    audio: float


def loop(job: tuple[Any, str, Sequence[str]]) -> Loop:
    """Read and encode clips one by one."""
    barrier, model, paths = job
    torch.set_num_threads(1)
    codec = load(model, device="cpu")
    codec.encode([np.zeros(24000, np.float32)])
    audio.read(paths[0], codec.sample_rate)
    took = Loop()
    barrier.wait()
    took.cpu -= time.process_time()
    for path in paths:
        began = time.perf_counter()
        wave = audio.read(path, codec.sample_rate)
        read = time.perf_counter()
        codec.encode([wave])
        took.reading += read - began
        took.encoding += time.perf_counter() - read
        took.audio += len(wave) / codec.sample_rate
    took.cpu += time.process_time()
    return took


def loops(files: Sequence[Path], model: str, processes: int) -> list[Loop]:
    """Share clips among processes that each `loop` over theirs, all at once."""
    shares = [[str(path) for path in files[number::processes]] for number in range(processes)]
    with SPAWN.Manager() as manager, ProcessPoolExecutor(processes, SPAWN) as pool:
        barrier = manager.Barrier(processes)
        return list(pool.map(loop, [(barrier, model, share) for share in shares]))


def pipeline(files: Sequence[Path], folder: Path, model: str, actors: int) -> Run:
    """Run the command's work on the same clips, in a process of its own."""
    links = folder / "in"
    links.mkdir(parents=True)
    for number, path in enumerate(files):
        (links / f"{number:07d}{path.suffix}").symlink_to(path.resolve())
    return apart(_pipeline, str(links), str(folder / "out"), model, actors)


def _pipeline(links: str, output: str, model: str, actors: int) -> Run:
    cluster.connect(None, num_cpus=actors, object_store_memory=2**28)
    cpu: list[float] = []
    options = EncodeOptions([links], output, model, device="cpu", codecs=actors)
    began = time.monotonic()
    # After the plan, and with each shard: the last time just before its processes end.
    summary = encode(options, report=lambda summary: cpu.append(_cpu_of_all()))
    assert not summary.failed
    return Run(time.monotonic() - began, cpu[-1] - cpu[0], summary.seconds)


def _cpu_of_all() -> float:
    """Return the CPU seconds of this process and of all that it started."""
    own = psutil.Process()
    spent = 0.0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def apart(work: Callable[..., T], *arguments: object) -> T:
    """Call a function in a process of its own, and return what it does."""
    with ProcessPoolExecutor(1, SPAWN) as pool:
        return pool.submit(work, *arguments).result()


def compare(name: str, files: Sequence[Path], folder: Path, model: str, actors: int) -> float:
    """Encode some files both ways, print the figures, and return the pipeline's CPU time."""
    alone = loops(files, model, actors)
    cpu = sum(one.cpu for one in alone) / sum(one.audio for one in alone)
    tenth = pipeline(files[::10], folder / "tenth", model, actors)
    run = pipeline(files, folder / "all", model, actors)
    seconds, more = sum(one.audio for one in alone), run.audio - tenth.audio
    plain = seconds / max(one.reading + one.encoding for one in alone)
    engine = seconds / max(one.encoding for one in alone)
    speed, own = more / (run.wall - tenth.wall), (run.cpu - tenth.cpu) / more
    print(
        f"| {name} | {len(files)} | {seconds:.0f} s | {engine:.0f} | {plain:.0f} | {speed:.0f} | "
        f"{speed / plain:.0%} | {speed / engine:.0%} | {1000 * cpu:.1f} | {1000 * own:.1f} | "
        f"{cpu / own:.0%} | {run.wall - seconds / speed:.1f} s |",
        flush=True,
    )
    return own


def as_wav(files: Sequence[Path], folder: Path, rate: int) -> list[Path]:
    """Decode recordings into WAV at the model's rate."""
    folder.mkdir()
    made = [folder / f"{number:07d}.wav" for number in range(len(files))]
    for path, target in zip(files, made, strict=True):
        audio.write(target, audio.read(path, rate), rate)
    return made


def pieces(files: Sequence[Path], seconds: float, count: int, folder: Path) -> list[Path]:
    """Cut clips of one length out of recordings."""
    folder.mkdir()
    made: list[Path] = []
    for path in files:
        samples, rate = soundfile.read(path, dtype="int16")
        size = round(seconds * rate)
        for start in range(0, len(samples) - size, size):
            made.append(folder / f"{len(made):07d}.wav")
            soundfile.write(made[-1], samples[start : start + size], rate)
            if len(made) == count:
                return made
    raise SystemExit(f"the recordings are enough for {len(made)} clips of {seconds} s, not {count}")


def planning(rows: int, folder: Path) -> None:
    """Print what planning a manifest of many rows takes."""
    manifest = folder / "manifest.csv"
    with manifest.open("w") as file:
        file.write("id,path,text,speaker,duration\n")
        for number in range(rows):
            file.write(f"clip-{number},audio/{number}.wav,some words {number},s{number % 99},3.5\n")
    print(apart(_planning, str(manifest)), flush=True)


def _planning(manifest: str) -> str:
    nothing = Done(np.empty(0, np.uint64), np.empty(0, np.uint64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    plan = make_plan(find_source(manifest, Options()), nothing)
    groups = sum(1 for _ in plan.groups(CLIPS_PER_SHARD))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan.close()
    return (
        f"{plan.todo} rows of a manifest planned in {took:.1f} s ({cpu:.1f} s of a core), {groups} "
        f"groups, peak of memory {peak / 2**20:.2f} GiB, {before / 2**20:.2f} of it before"
    )


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--short", type=int, default=10_000, help="clips of 0.3 s")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the manifest")
    parser.add_argument("--actors", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=1, help="turns of each comparison")
    arguments = parser.parse_args()
    model, actors = arguments.model, arguments.actors
    print(f"{describe()}; audio-seconds a second, of {actors} processes\n")
    print(HEAD)
    found = sorted(p for p in arguments.recordings.rglob("*") if p.suffix.lower() in SUFFIXES)
    kept: dict[str, list[float]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets: dict[str, list[Path]] = {}
        if arguments.clips:
            chosen = found[:: max(1, len(found) // arguments.clips)][: arguments.clips]
            sets["as they are"] = chosen
            sets["WAV"] = as_wav(chosen, folder / "wav", load(model, device="cpu").sample_rate)
        if arguments.short:
            for seconds, count in ((3.0, arguments.short // 10), (0.3, arguments.short)):
                sets[f"WAV, {seconds} s"] = pieces(found, seconds, count, folder / f"{seconds}")
        for number in range(arguments.rounds):
            for kind, files in sets.items():
                where = folder / f"run-{kind}-{number}"
                kept[kind].append(compare(kind, files, where, model, actors))
        if arguments.short:
            long, short = (kept[f"WAV, {seconds} s"] for seconds in (3.0, 0.3))
            ratio = statistics.mean(short) / statistics.mean(long)
            print(f"\nclips of 0.3 s: {ratio:.2f} x the CPU time of clips of 3 s")
        if arguments.rows:
            planning(arguments.rows, folder)


if __name__ == "__main__":
    main()
