"""The rates of this machine that `bench/scale.py` plans with: of one core, in CPU time.

    python bench/corpus_rates.py RECORDINGS --json bench/results/corpora.json

Measures what a reader takes to open a clip and to decode a second of it, by format; what a codec
takes; what a writer takes for a shard, and its size; and what the process that hands out batches
takes for each.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import soundfile
import torch
from machine import describe

from bulk import cluster
from bulk.batches import Encoded
from bulk.encode import CLIPS_PER_SHARD, EncodeOptions, encode
from bulk.output import Output, RowOptions, RowWriter, ShardWriter
from bulk.plan import Done, make_plan
from bulk.progress import Summary
from bulk.sources import Options, find_source
from snac_core import audio
from snac_core.codec import Codec
from snac_core.store import load
from snac_core.types import Samples

SHORT, LONG = 1.0, 15.0
"""Seconds of the clips from whose times the time to open one, and of a second, are taken."""
FORMATS = {
    "WAV": ("wav", 24000),
    "FLAC": ("flac", 24000),
    "FLAC, 44.1 kHz": ("flac", 44100),
    "Opus": ("opus", 24000),
}
ROUNDS = 3
DRIVER_BATCH_SECONDS = 4.0
"""Audio of the batches in which what hands them out is measured: small, for many of them."""


def cpu(work: Callable[[], object]) -> float:
    """Return the least CPU time of some runs, in seconds."""
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def speech(recordings: Path, rate: int, seconds: float) -> Samples:
    """Return recordings one after the other, at the model's rate."""
    parts, got = [], 0.0
    for path in sorted(recordings.rglob("*.opus")):
        parts.append(audio.read(path, rate))
        got += len(parts[-1]) / rate
        if got >= seconds:
            return np.concatenate(parts)[: round(seconds * rate)]
    raise SystemExit(f"{recordings} holds {got:.0f} s of .opus, and {seconds:.0f} s are needed")


def reading(wave: Samples, rate: int, folder: Path) -> dict[str, dict[str, float]]:
    """Return the seconds to open a clip, and to decode and resample one of its seconds."""
    found = {}
    for name, (suffix, own) in FORMATS.items():
        at = np.concatenate(list(audio.resampled([wave], rate, own)))
        spent = {}
        for seconds in (SHORT, LONG):
            size = round(seconds * own)
            paths: list[Path] = []
            for start in range(0, len(at) - size + 1, size):
                paths.append(folder / f"{len(paths)}-{seconds}-{own}.{suffix}")
                audio.write(paths[-1], at[start : start + size], own)

            def read(paths: Sequence[Path] = paths) -> None:
                for path in paths:
                    audio.read(path, rate)

            spent[seconds] = cpu(read) / len(paths)
        second = (spent[LONG] - spent[SHORT]) / (LONG - SHORT)
        opened = max(0.0, spent[SHORT] - SHORT * second)
        found[name] = {"clip": opened, "second": second}
    return found


def writing(codec: Codec, folder: Path) -> dict[str, float]:
    """Return the seconds that a shard takes, and its bytes for a second of audio."""
    config, seconds = codec.config, 4.0
    for number in range(CLIPS_PER_SHARD):
        (folder / f"{number:04d}.wav").touch()
    nothing = Done(np.empty(0, np.uint64), np.empty(0, np.uint64))
    plan = make_plan(find_source(str(folder), Options()), nothing)
    (group,) = plan.groups(CLIPS_PER_SHARD)
    samples = round(seconds * codec.sample_rate)
    total, random = config.padded_samples(samples), np.random.default_rng(0)
    codes = tuple(
        (
            clip,
            tuple(
                random.integers(0, config.codebook_size, total // (config.hop * s), dtype=np.int32)
                for s in config.vq_strides
            ),
        )
        for clip in range(CLIPS_PER_SHARD)
    )
    encoded = Encoded(codes, dict.fromkeys(range(CLIPS_PER_SHARD), samples), ())
    rows = RowWriter(config, codec.version, codec.token_space, pa.schema([]), RowOptions())
    output = Output(str(folder / "out"))
    output.make()
    writer = ShardWriter(output.folder, {"format": "parquet"}, rows)
    took = cpu(lambda: writer.write(group, encoded))
    (shard,) = Path(output.folder).glob("tokens-*")
    plan.close()
    return {"shard": took, "bytes": shard.stat().st_size / (CLIPS_PER_SHARD * seconds)}


def driving(wave: Samples, rate: int, folder: Path, model: str) -> float:
    """Return the CPU seconds that a batch takes of what hands it out."""
    size = round(2 * rate)
    for number, start in enumerate(range(0, len(wave) - size, size)):
        soundfile.write(folder / f"{number:05d}.wav", wave[start : start + size], rate)
    marks: list[tuple[float, float]] = []

    def mark(summary: Summary) -> None:
        if summary.done:
            marks.append((time.process_time(), summary.seconds))

    cluster.connect(None, num_cpus=2, object_store_memory=2**28)
    options = EncodeOptions(
        [str(folder)],
        str(folder / "out"),
        model,
        device="cpu",
        batch_seconds=DRIVER_BATCH_SECONDS,
    )
    encode(options, report=mark)
    (first, before), (last, after) = marks[0], marks[-1]
    return (last - first) / ((after - before) / DRIVER_BATCH_SECONDS)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec = load(arguments.model, device="cpu")
    wave = speech(arguments.recordings, codec.sample_rate, 900.0)
    clips = np.split(wave[: 60 * codec.sample_rate], 6)
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, part) for part in ("reading", "writing", "driving")]
        for folder in folders:
            folder.mkdir()
        rates = {
            "machine": describe(),
            "encode": 60 / cpu(lambda: codec.encode(clips)),
            "reading": reading(wave[: 60 * codec.sample_rate], codec.sample_rate, folders[0]),
            "writing": writing(codec, folders[1]),
            "driving": driving(wave, codec.sample_rate, folders[2], arguments.model),
        }
    text = json.dumps(rates, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
