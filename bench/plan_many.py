"""Time and memory of planning a run over very many recordings, none of which is there.

python bench/plan_many.py --entries 2800000 --processes 2

A manifest tells of them. Each process finds them as a training run does, plans every epoch of a
configuration and goes through the numbers of all its segments. Memory is what a process has of its
own (anonymous pages), beyond what it had when its modules were imported.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from machine import describe

from snac_core.config import SnacConfig
from trainer import config as configuration
from trainer.config import TrainConfig
from trainer.runtime.distributed import World, joined_world
from trainer.training.batches import DeviceTransfer
from trainer.training.epochs import Epochs
from trainer.training.find_data import find_data

ROWS = 100_000
MEAN_SECONDS = 6.0
RATE = 24000
PORT = "29617"


class Peak:
    """Watches the memory that this process has of its own."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        """Start watching."""
        self._before = own_memory()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.bytes = max(self.bytes, own_memory() - self._before)


def own_memory() -> int:
    """Return the bytes of this process's anonymous pages."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("this kernel does not tell RssAnon in /proc/self/status")


def write_manifest(path: Path, entries: int) -> None:
    """Write a manifest like that of `prepare`, of recordings of a few seconds each."""
    random = np.random.default_rng(1)
    schema = pa.schema(
        [
            ("path", pa.string()),
            ("split", pa.string()),
            ("duration", pa.float64()),
            ("sample_rate", pa.int32()),
        ]
    )
    with pq.ParquetWriter(path, schema) as file:
        for first in range(0, entries, ROWS):
            count = min(ROWS, entries - first)
            numbers = range(first, first + count)
            sides = ["val" if number % 1000 == 0 else "train" for number in numbers]
            names = [
                f"{side}/speaker{number // 700:05d}_recording_{number:08d}.flac"
                for side, number in zip(sides, numbers, strict=True)
            ]
            seconds = np.round(random.gamma(4.0, MEAN_SECONDS / 4.0, count) + 0.5, 3)
            rates = np.full(count, RATE, np.int32)
            file.write_table(pa.table([names, sides, seconds, rates], schema))


def plan(config: TrainConfig, world: World) -> str:
    """Plan a run in this process; return what it took."""
    started, cpu = time.perf_counter(), time.process_time()
    with Peak() as peak:
        data, validation, _ = find_data(config, world)
        found = time.perf_counter()
        codec = SnacConfig()
        epochs = Epochs(config, data, codec, world, DeviceTransfer(world, codec))
        for number, epoch in enumerate(epochs.all, 1):
            count = sum(1 for _ in epochs.batches(number).batch_sampler)
            assert count == epoch.steps
    ended = time.perf_counter()
    return (
        f"| {world.rank} | {data.recordings + len(validation):,} | {data.seconds / 3600:,.0f} | "
        f"{epochs.total_steps:,} | {found - started:.1f} | {ended - started:.1f} | "
        f"{time.process_time() - cpu:.1f} | "
        f"{peak.bytes / 1e6:.0f} |"
    )


def main() -> None:
    """Make the manifest, and plan in processes that have only done that."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=2_800_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--config", type=Path, default="trainer/configs/phase10_curriculum.json")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        logging.basicConfig(level=logging.WARNING)
        torch.set_num_threads(1)
        manifest = json_text(options.folder / "manifest.parquet")
        changes = [f"train_data={manifest}", f"val_data={manifest}"]
        # No process reads, so that none is started.
        changes.append("num_workers=0")
        changes.append(f"output_dir={json_text(options.folder / 'run')}")
        config = configuration.load(options.config, changes)
        with joined_world("cpu") as world:
            print(plan(config, world), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder) / "manifest.parquet", options.entries)
        size = (Path(folder) / "manifest.parquet").stat().st_size
        print(f"Machine: {describe()}; a manifest of {size / 1e6:.0f} MB.\n")
        print("| process | recordings | hours | steps | found, s | planned, s | CPU, s | own, MB |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORT, "OMP_NUM_THREADS": "1"}
        place["WORLD_SIZE"] = str(options.processes)
        running = [
            subprocess.Popen(
                [sys.executable, *sys.argv, "--folder", folder],
                env={
                    **os.environ,
                    **place,
                    "RANK": str(rank),
                    "WORLD_SIZE": str(options.processes),
                },
            )
            for rank in range(options.processes)
        ]
        sys.exit(max(process.wait() for process in running))


def json_text(path: Path) -> str:
    """Return a path as a JSON string, which an override takes for no number."""
    return f'"{path}"'


if __name__ == "__main__":
    main()
