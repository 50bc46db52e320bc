"""Train in legs of a few minutes, on a machine that is lent for no longer.

python bench/training_legs.py --config CONFIG --state DIR [--minutes 8.5] [--half] [--device 0]

Each call is one leg: it unpacks the run from DIR, if there is one, trains until the minutes are
up or the run has ended, and packs it into DIR again, in files of at most 15 MB. DIR is all that
has to be carried between two machines; the training data must be at the same place relative to
CONFIG's keys, or be named by --set. The legs together give what one uninterrupted run gives, bit
for bit on a CPU. With --half, weights travel as float16 and Adam's moments as bfloat16, which is
half as much and no longer exact.

python bench/training_legs.py --rehearse

trains a tiny model on synthetic voices three times: in one go, in exact legs, and in half legs,
and prints a Markdown table of how far the last two end from the first.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from machine import describe

from trainer.runtime import transfer
from trainer.runtime.checkpointing import BEST, checkpoints

MARGIN_SECONDS = 60.0
"""Most that a run may take to stop after it is asked to, before it is killed."""
TINY = {
    "pretrained_model": None,
    "model": {
        "encoder_dim": 8,
        "encoder_rates": [8, 8],
        "decoder_dim": 32,
        "decoder_rates": [8, 8],
        "codebook_size": 32,
        "vq_strides": [4, 2, 1],
    },
    "batch_size": 2,
    "segment_length": 0.2,
    "num_epochs": 4,
    "num_workers": 0,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "mel_weight": 1.0,
    "ema_decay": 0.99,
    "codebook_decay": 0.9,
    "save_every": 1000,
    "sample_clips": 0,
    "log_every": 1,
}


def leg(
    config: Path,
    run: Path,
    state: Path,
    seconds: float,
    half: bool,
    device: str,
    settings: list[str],
    after_a_step: bool = False,
) -> bool:
    """Train for ``seconds``, with ``run`` as the folder to work in; return whether it has ended.

    They count from the start, or, ``after_a_step``, from the first row of training figures.
    """
    if (state / transfer.INDEX).exists():
        print(f"going on from step {transfer.unpack(state, run)}", file=sys.stderr, flush=True)
    before = trained_rows(run)
    command = [sys.executable, "-m", "trainer", "train", "--config", str(config)]
    command += ["--device", device, "--resume", "auto", "--set", f"output_dir={run}"]
    for setting in settings:
        command += ["--set", setting]
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        try:
            if after_a_step:
                while process.poll() is None and trained_rows(run) <= before:
                    time.sleep(0.1)
            process.wait(seconds)
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(MARGIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    if process.returncode:
        sys.exit(f"the trainer ended with {process.returncode}")
    files = transfer.pack(run, state, half)
    total, largest = (each(path.stat().st_size for path in files) / 1e6 for each in (sum, max))
    print(
        f"{len(files)} files in {state}, {total:.1f} MB, the largest {largest:.1f} MB",
        file=sys.stderr,
        flush=True,
    )
    return ended


def trained_rows(run: Path) -> int:
    """Return how many rows of training figures a run has written."""
    table = run / "metrics.csv"
    return table.read_text().count(",train,") if table.exists() else 0


def rehearse(folder: Path, seconds: float) -> None:
    """Compare legs with one uninterrupted run; print a table."""
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            pitch = random.uniform(90, 220) * np.ones(48_000)
            phase = np.cumsum(2 * np.pi * pitch / 24_000)
            voice = sum(np.sin(k * phase) / k for k in range(1, 12))
            swell = 0.5 - 0.4 * np.cos(np.arange(48_000) / 1_000)
            soundfile.write(folder / part / f"{number}.wav", 0.05 * voice * swell, 24_000)
    data = {"train_data": str(folder / "train"), "val_data": str(folder / "val")}
    config = folder / "config.json"
    config.write_text(json.dumps({**TINY, **data, "output_dir": str(folder / "run")}))
    print(f"Machine: {describe()}.\n")
    print("| run | legs | MB carried | best val loss | largest difference of a weight |")
    print("|---|---|---|---|---|")
    whole: dict[str, torch.Tensor] = {}
    for name, half, limit in (("whole", False, 1e6), ("exact", False, 0), ("half", True, 0)):
        legs, ended = 0, False
        while not ended:
            # Every leg works in a folder of its own, as on a machine of its own.
            run, state = folder / f"{name}-{legs}", folder / f"{name}-state"
            ended = leg(
                config, run, state, limit or seconds, half, "cpu", [], after_a_step=not limit
            )
            legs += 1
        weights = torch.load(checkpoints(run)[0], weights_only=True)["model"]
        whole = whole or weights
        difference = max(float((weights[key] - whole[key]).abs().max()) for key in whole)
        metrics = torch.load(run / BEST, weights_only=True)["metrics"]
        carried = sum(path.stat().st_size for path in state.iterdir()) / 1e6
        loss = metrics["best_val_loss"]
        print(f"| {name} | {legs} | {carried:.2f} | {loss:.5f} | {difference:.2g} |")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--device", default="0")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument(
        "--leg-seconds", type=float, default=5.0, help="of training, in a rehearsal"
    )
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if options.rehearse:
            rehearse(Path(folder) / "rehearsal", options.leg_seconds)
            return
        if options.config is None or options.state is None:
            parser.error("give --config and --state, or --rehearse")
        seconds = 60 * options.minutes - (time.monotonic() - started)
        how = (options.half, options.device, options.settings)
        leg(options.config, Path(folder) / "run", options.state, seconds, *how)


if __name__ == "__main__":
    main()
