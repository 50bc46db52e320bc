"""How `snac-bulk encode` compares with the engine alone, on this machine.

    python bench/corpora.py RECORDINGS
    python bench/corpora.py RECORDINGS --clips 200 --short 2000 --rows 1000000

Prints ratios, with what each is made of, since two runs on one machine are comparable and two
machines are not: the whole pipeline against a codec that is handed decoded audio; clips of 0.3 s
against clips of 3 s, in audio-time; and the planning of a manifest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import soundfile
import torch
from machine import describe

from snac_core import audio
from snac_core.codec import Codec
from snac_core.store import load

BATCH_SECONDS = 64.0


def codec_of(model: str) -> Codec:
    """Return a codec of one thread."""
    torch.set_num_threads(1)
    return load(model, device="cpu")


def engine(job: tuple[str, list[str], float]) -> float:
    """Encode decoded clips, cut to a length, and return the seconds that only encoding took."""
    model, paths, most = job
    codec = codec_of(model)
    codec.encode([np.zeros(24000, np.float32)])
    took = 0.0
    for path in paths:
        wave = audio.read(path, codec.sample_rate)
        wave = wave[: round(most * codec.sample_rate)] if most else wave
        began = time.perf_counter()
        codec.encode([wave])
        took += time.perf_counter() - began
    return took


def pipeline(folder: Path, output: Path, model: str, actors: int) -> float:
    """Return the seconds between the first batch and the last row of the command's own work."""
    program = (
        "import sys, time\n"
        "from bulk import cluster\n"
        "from bulk.encode import EncodeOptions, encode\n"
        "from bulk.pipeline import Pipeline\n"
        "first = []\n"
        "taken = Pipeline._take_codec\n"
        "def up(self, ready):\n"
        "    taken(self, ready)\n"
        "    first.append(time.perf_counter())\n"
        "Pipeline._take_codec = up\n"
        "cluster.connect(None, num_cpus=int(sys.argv[4]), object_store_memory=2**28)\n"
        "encode(EncodeOptions([sys.argv[1]], sys.argv[2], sys.argv[3], codecs=int(sys.argv[4])))\n"
        "print(time.perf_counter() - max(first))\n"
    )
    command = [sys.executable, "-c", program, str(folder), str(output), model, str(actors)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def compare(files: list[Path], model: str, actors: int, folder: Path) -> float:
    """Encode some files both ways, print the figures, and return the pipeline's x real time."""
    seconds: float = sum(float(soundfile.info(path).duration) for path in files)
    shares = [[str(path) for path in files[number::actors]] for number in range(actors)]
    with ProcessPoolExecutor(actors) as pool:
        alone: float = max(pool.map(engine, [(model, share, 0.0) for share in shares]))
    links = folder / "in"
    links.mkdir(parents=True)
    for number, path in enumerate(files):
        (links / f"{number:07d}{path.suffix}").symlink_to(path.resolve())
    whole = pipeline(links, folder / "out", model, actors)
    print(
        f"{len(files)} clips, {seconds:.0f} s: engine alone {seconds / alone:.2f} x real time, "
        f"pipeline {seconds / whole:.2f}: {alone / whole:.0%} of the engine"
    )
    return seconds / whole


def pieces(files: list[Path], seconds: float, count: int, folder: Path) -> list[Path]:
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
    return made


def planning(rows: int, folder: Path) -> None:
    """Print what planning a manifest of many rows takes."""
    manifest = folder / "manifest.csv"
    with manifest.open("w") as file:
        file.write("id,path,text,speaker,duration\n")
        for number in range(rows):
            file.write(f"clip-{number},audio/{number}.wav,some words {number},s{number % 99},3.5\n")
    program = (
        "import sys, resource, time, numpy as np\n"
        "from bulk.plan import Done, make_plan\n"
        "from bulk.sources import Options, find_source\n"
        "nothing = Done(np.empty(0, np.uint64), np.empty(0, np.uint64))\n"
        "began = time.perf_counter()\n"
        "plan = make_plan(find_source(sys.argv[1], Options()), nothing)\n"
        "groups = sum(1 for _ in plan.groups(1024))\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n"
        "cpu = time.process_time()\n"
        "print(f'{plan.todo} rows planned in {time.perf_counter() - began:.1f} s "
        "({cpu:.1f} s of one core), {groups} groups, peak {peak:.2f} GiB')\n"
        "plan.close()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(manifest)], check=True)


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--short", type=int, default=100_000, help="clips of 0.3 s")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the manifest")
    parser.add_argument("--actors", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    print(describe())
    files = sorted(arguments.recordings.rglob("*.opus"))[: arguments.clips]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.rows:
            planning(arguments.rows, folder)
        if arguments.clips:
            compare(files, arguments.model, arguments.actors, folder / "all")
        if arguments.short:
            speeds = {}
            for seconds, count in ((3.0, arguments.short // 10), (0.3, arguments.short)):
                cut = pieces(files, seconds, count, folder / f"{seconds}")
                where = folder / f"run-{seconds}"
                speeds[seconds] = compare(cut, arguments.model, arguments.actors, where)
            print(f"clips of 0.3 s: {speeds[3.0] / speeds[0.3]:.2f} x the audio-time of 3 s")


if __name__ == "__main__":
    main()
