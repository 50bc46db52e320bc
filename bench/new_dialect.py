"""A codec that never heard a dialect, fine-tuned on it: how much lower is the validation loss?

python bench/new_dialect.py --general DIR --dialect DIR --output OUT

Trains a base by the starter's recipe on the general speech alone, fine-tunes it twice on the
dialect with the four-stage curriculum of `trainer/configs/new_dialect.json` (the decoder alone,
so that the tokens stay what they were; and everything), and evaluates both against the base on
speakers that neither has heard. Prints a Markdown table; reports are under OUT/reports. A run
that was stopped goes on where it was. `--base` takes a model that is there in the place of one
trained on general speech, and `--set` changes the fine-tuning: `--set mel_weight=0` leaves it the
two terms of the original recipe.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import describe

CONFIGS = Path(__file__).parents[1] / "trainer" / "configs"
RUNS = {"decoder": "true", "full": "false"}
"""Which parts are trained, and whether the encoder and the quantizer are frozen."""

MEASURES = {
    "l1": ("l1",),
    "stft": ("stft",),
    "log-mel L1": ("log_mel",),
    "STOI": ("stoi",),
    "PESQ": ("pesq",),
}
"""What a column shows, and the figures that it is the sum of."""


def trainer(command: str, *arguments: str) -> None:
    """Run a command of the trainer; show it first."""
    words = [command, *arguments]
    print("+ snac-trainer", *words, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "trainer", *words], check=True)


def prepare(sources: list[Path], output: Path, group_by: str, val_groups: str) -> None:
    """Split ``sources`` into train and val by speaker."""
    inputs = [str(source) for source in sources]
    trainer(
        *("prepare", "--input-dir", *inputs, "--output-dir", str(output)),
        *("--group-by", group_by, "--val-groups", val_groups),
    )


def train(config: str, data: Path, output: Path, device: str, **values: str) -> None:
    """Train by ``config``; go on where an earlier call was stopped, nothing if it had ended."""
    folders = {
        "train_data": str(data / "train"),
        "val_data": str(data / "val"),
        "output_dir": str(output),
    }
    values = folders | values
    settings = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    where = ("--device", device, "--resume", "auto")
    trainer("train", "--config", str(CONFIGS / config), *where, *settings)


def rows(output: Path, run: str) -> list[list[str]]:
    """Return the table's rows for one fine-tuning: all speakers, then each."""
    results = json.loads((output / "reports" / run / "evaluation_results.json").read_text())
    baseline = json.loads((output / run / "baseline_metrics.json").read_text())["val_loss"]
    curve = (output / run / "metrics.csv").read_text().splitlines()
    split, loss = (curve[0].split(",").index(name) for name in ("split", "loss"))
    best = min(float(row.split(",")[loss]) for row in curve[1:] if row.split(",")[split] == "val")
    lower = 100 * (1 - best / baseline)
    found = [[run, "all", f"{baseline:.4f}", f"{best:.4f}", f"{lower:.1f} %", *pairs(results)]]
    for group, figures in results["groups"].items():
        found.append([run, group, "", "", "", *pairs(figures)])
    return found


def pairs(figures: dict[str, Any]) -> list[str]:
    """Return each measure of the base and of the fine-tuned model."""
    base, tuned = figures["base"], figures["finetuned"]
    return [
        f"{sum(base[name] for name in names):.3f} -> {sum(tuned[name] for name in names):.3f}"
        if all(name in base for name in names)
        else "not measured"
        for names in MEASURES.values()
    ]


def main() -> int:
    """Make the experiment, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--general", type=Path, help="speech for the base")
    source.add_argument("--base", help="a model that there is, in its place: any reference")
    parser.add_argument("--general-speaker", default="^[a-z]+", help="finds a file's speaker")
    parser.add_argument("--general-val", default="nathalie", help="speakers to validate on")
    parser.add_argument("--dialect", type=Path, required=True, help="speech to fine-tune on")
    parser.add_argument("--dialect-speaker", default=r"speaker\d\d")
    parser.add_argument("--dialect-val", default="speaker25,speaker26,speaker27")
    parser.add_argument("--dialect-files", default="*", help="which of its files: a glob pattern")
    parser.add_argument(
        "--dialect-share", type=float, default=1.0, help="of its segments, in each epoch others"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the fine-tuning"
    )
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--device", default="cpu", help="a GPU's number, or cpu")
    options = parser.parse_args()
    output: Path = options.output

    prepare([chosen(options)], output / "dialect", options.dialect_speaker, options.dialect_val)
    base = options.base
    if base is None:
        general = output / "general"
        prepare([options.general], general, options.general_speaker, options.general_val)
        train("starter.json", general, output / "base", options.device)
        base = str(output / "base" / "best_model.pt")
    changes = dict(change.split("=", 1) for change in options.set)
    for run in options.runs:
        heard = {"path": str(output / "dialect" / "train"), "weight": options.dialect_share}
        train(
            *("new_dialect.json", output / "dialect", output / run, options.device),
            train_data=json.dumps([heard]),
            pretrained_model=base,
            freeze_encoder=RUNS[run],
            freeze_vq=RUNS[run],
            **changes,
        )
        trainer(
            *("evaluate", "--base", base, "--model", str(output / run / "best_model.pt")),
            *("--data", str(output / "dialect" / "val"), "--run", str(output / run)),
            *("--group-by", options.dialect_speaker, "--device", options.device),
            *("--output-dir", str(output / "reports" / run)),
        )

    print(f"Machine: {describe()}.\n")
    columns = ["trained", "speakers", "base val loss", "best", "lower", *MEASURES]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for run in options.runs:
        for row in rows(output, run):
            print(f"| {' | '.join(row)} |")
    return 0


def chosen(options: argparse.Namespace) -> Path:
    """Write a manifest of the dialect's files: those asked for, and all of who validates."""
    held_out = options.dialect_val.split(",")
    paths = [
        path.resolve()
        for path in sorted(options.dialect.iterdir())
        if path.match(options.dialect_files)
        or any(name in held_out for name in re.findall(options.dialect_speaker, path.name))
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    manifest: Path = options.output / "dialect.csv"
    manifest.write_text("\n".join(["path", *map(str, paths)]) + "\n", encoding="utf-8")
    return manifest


if __name__ == "__main__":
    sys.exit(main())
