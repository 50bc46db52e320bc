"""How `snac-bulk encode` compares with a plain loop around the engine, on this machine.

    python bench/corpora.py RECORDINGS
    python bench/corpora.py RECORDINGS --clips 200 --short 1000 --rows 1000000 --json rates.json

Prints, for clips as they are and as WAV, how fast one process a core goes that reads, decodes,
resamples and encodes clip after clip, how fast the engine alone goes in it, and how fast the
pipeline; then clips of 0.3 s against clips of 3 s; then the planning of a manifest. The times of
the pipeline begin when its first codec is up: by then the readers have some batches ready, which
is told too. ``--json`` keeps the rates, for ``bench/scale.py``.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import soundfile
import torch
from machine import describe

from bulk import cluster
from bulk.encode import CLIPS_PER_SHARD, CPU_BATCH_SECONDS, EncodeOptions, encode
from bulk.pipeline import BATCHES_AHEAD
from bulk.plan import Done, make_plan
from bulk.sources import Options, find_source
from snac_core import audio
from snac_core.store import load

T = TypeVar("T")
SUFFIXES = audio.AUDIO_SUFFIXES
HEAD = (
    "| clips | | audio | engine | plain loop | pipeline | of the plain loop | of the engine "
    "| until the first codec is up |\n|---|---|---|---|---|---|---|---|---|"
)
SPAWN = multiprocessing.get_context("spawn")
"""For measurements in processes of their own, which inherit no threads and no memory."""


@dataclasses.dataclass
class Loop:
    """What the plain loop took: seconds of one process, of reading and of encoding."""

    audio: float = 0.0
    reading: float = 0.0
    encoding: float = 0.0


@dataclasses.dataclass
class Run:
    """What the pipeline took.

    Attributes
    ----------
    working
        Seconds from the first codec that was up to the last row.
    whole
        The same from the planning on.
    ready
        Seconds of audio that readers had ready when the first codec was up, at most.
    size
        Bytes of the rows.
    """

    working: float
    whole: float
    ready: float
    size: int


class Rates(NamedTuple):
    """What a core and the whole machine did, of audio-seconds a second, and the size of rows."""

    clips: int
    seconds: float
    read: float
    encode: float
    pipeline: float
    bytes_per_second: float


def loop(job: tuple[Any, str, Sequence[str]]) -> Loop:
    """Read and encode clips one by one."""
    barrier, model, paths = job
    torch.set_num_threads(1)
    codec = load(model, device="cpu")
    codec.encode([np.zeros(24000, np.float32)])
    audio.read(paths[0], codec.sample_rate)
    took = Loop()
    barrier.wait()
    for path in paths:
        began = time.perf_counter()
        wave = audio.read(path, codec.sample_rate)
        read = time.perf_counter()
        codec.encode([wave])
        took.reading += read - began
        took.encoding += time.perf_counter() - read
        took.audio += len(wave) / codec.sample_rate
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
    options = EncodeOptions([links], output, model, device="cpu", codecs=actors)
    began = time.monotonic()
    summary = encode(options)
    whole = time.monotonic() - began
    ready = cluster.readers(actors, "cpu") * (BATCHES_AHEAD + 1) * CPU_BATCH_SECONDS
    assert not summary.failed
    size = sum(path.stat().st_size for path in Path(output).glob("tokens-*"))
    return Run(summary.working, whole, ready, size)


def apart(work: Callable[..., T], *arguments: object) -> T:
    """Call a function in a process of its own, and return what it does."""
    with ProcessPoolExecutor(1, SPAWN) as pool:
        return pool.submit(work, *arguments).result()


def compare(name: str, files: Sequence[Path], folder: Path, model: str, actors: int) -> Rates:
    """Encode some files both ways, and print the figures."""
    alone = loops(files, model, actors)
    run = pipeline(files, folder, model, actors)
    seconds = sum(one.audio for one in alone)
    reading = sum(one.reading for one in alone) / seconds
    plain = max(one.reading + one.encoding for one in alone)
    engine = max(one.encoding for one in alone)
    # What was read before the first codec was up was read for nothing, as the clock has it.
    working = run.working + min(run.ready, seconds) * reading / actors
    print(
        f"| {name} | {len(files)} | {seconds:.0f} s | {seconds / engine:.0f} | "
        f"{seconds / plain:.0f} | {seconds / working:.0f} | {plain / working:.0%} | "
        f"{engine / working:.0%} | {run.whole - run.working:.1f} s |",
        flush=True,
    )
    encoding = sum(one.encoding for one in alone) / seconds
    size = run.size / seconds
    return Rates(len(files), seconds, 1 / reading, 1 / encoding, seconds / working, size)


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
    parser.add_argument("--json", type=Path, help="where to keep the rates")
    arguments = parser.parse_args()
    model, actors = arguments.model, arguments.actors
    print(f"{describe()}; audio-seconds a second, of {actors} processes\n")
    print(HEAD)
    found = sorted(p for p in arguments.recordings.rglob("*") if p.suffix.lower() in SUFFIXES)
    kept: dict[str, list[Rates]] = collections.defaultdict(list)
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
            ratios = [one.pipeline / two.pipeline for one, two in zip(long, short, strict=True)]
            print(f"\nclips of 0.3 s: {statistics.mean(ratios):.2f} x the time of clips of 3 s")
        if arguments.rows:
            planning(arguments.rows, folder)
    if arguments.json:
        rates = {kind: [one._asdict() for one in runs] for kind, runs in kept.items()}
        arguments.json.write_text(json.dumps({"machine": describe(), **rates}, indent=2) + "\n")


if __name__ == "__main__":
    main()
