"""`snac-bulk encode` killed at random moments: does every clip end up in the rows once?

    python bench/kills.py RECORDINGS
    python bench/kills.py RECORDINGS --clips 600 --kills 5 --within 3 --seed 0

Runs the command on the same output again and again, ends each run with SIGKILL at a moment drawn
from the ``--within`` seconds after its first shard, lets the last one finish, and looks at the
rows: the ids against the recordings, and some of the codes against those of this process. Exits
with 1 if they differ.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from machine import describe

from bulk.sources import Options, find_source
from snac_core import audio
from snac_core.store import load

ENVIRONMENT = {**os.environ, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}


def links(recordings: Path, count: int, folder: Path) -> list[str]:
    """Link some of the recordings, evenly spread, into a folder; return their names."""
    tables = find_source(str(recordings), Options("folder")).tables()
    found = [name for table in tables for name in table["path"].to_pylist()]
    chosen = found[:: max(1, len(found) // count)][:count]
    folder.mkdir()
    names = [f"{number:04d}-{Path(name).name}" for number, name in enumerate(chosen)]
    for name, path in zip(names, chosen, strict=True):
        (folder / name).symlink_to((recordings / path).resolve())
    return names


def killed(command: list[str], output: Path, seconds: float, number: int) -> None:
    """Run the command for some seconds, and say what it leaves behind."""
    before, began = committed(output), time.monotonic()
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        while committed(output) == before and process.poll() is None:
            time.sleep(0.01)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            process.send_signal(signal.SIGKILL)
    after, files = committed(output), len(list(output.glob("tokens-*")))
    unfinished = len(list(output.rglob(".tmp-*")))
    what = "killed" if code is None else f"ended with {code}"
    print(
        f"run {number}: {what} after {time.monotonic() - began:.1f} s; {before} -> {after} shards "
        f"committed, {files} files of rows, {unfinished} unfinished files",
        flush=True,
    )


def committed(output: Path) -> int:
    """Return how many shards an output has in its ledger."""
    return len(list((output / ".snac-bulk" / "ledger").glob("*.entry")))


def faults(corpus: Path, names: list[str], output: Path, model: str, sample: int) -> list[str]:
    """Return what is wrong with the rows."""
    tables = [pq.read_table(path) for path in sorted(output.glob("tokens-*.parquet"))]
    rows: list[dict[str, Any]] = [row for table in tables for row in table.to_pylist()]
    ids = [row["id"] for row in rows]
    print(f"{len(ids)} rows, {len(set(ids))} different ids, {len(names)} recordings")
    counts = Counter(ids)
    wrong = [f"{name} has {counts[name]} rows, not 1" for name in names if counts[name] != 1]
    if set(ids) - set(names):
        wrong.append(f"rows of no recording: {sorted(set(ids) - set(names))[:5]}")
    if left := [path.name for path in output.rglob(".tmp-*")]:
        wrong.append(f"left behind: {left}")
    codec = load(model, device="cpu")
    chosen = random.Random(0).sample(rows, min(sample, len(rows)))
    for row in chosen:
        (codes,) = codec.encode([audio.read(corpus / row["id"], codec.sample_rate)])
        if any(row[f"level_{n}"] != level.tolist() for n, level in enumerate(codes.levels)):
            wrong.append(f"{row['id']} has other codes than this process gives")
    print(f"{len(chosen)} of them encoded again in this process and compared")
    return wrong


def main() -> int:
    """Kill, finish, and look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--clips-per-shard", type=int, default=8)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--within", type=float, default=3.0, help="seconds")
    parser.add_argument("--sample", type=int, default=100, help="rows whose codes are compared")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(describe())
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        corpus, output = Path(name) / "corpus", Path(name) / "out"
        names = links(arguments.recordings, arguments.clips, corpus)
        command = [sys.executable, "-m", "bulk.cli", "encode", str(corpus), "--output", str(output)]
        command += ["--model", arguments.model, "--device", "cpu"]
        command += ["--clips-per-shard", str(arguments.clips_per_shard)]
        for number in range(1, arguments.kills + 1):
            killed(command, output, moments.uniform(0, arguments.within), number)
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        print(f"last run: exit code {done.returncode}, {done.stdout.strip()}, {done.stderr!r}")
        wrong = faults(corpus, names, output, arguments.model, arguments.sample)
    print("\n".join(wrong) or "every clip is there once")
    return 1 if wrong or done.returncode else 0


if __name__ == "__main__":
    raise SystemExit(main())
