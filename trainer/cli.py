"""``snac-trainer prepare | train | evaluate | publish``.

Exit codes: 0 when all went well, 1 when it did not, 2 for wrong usage, 130 when interrupted.
Errors are one line each.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

import snac_core
from snac_core.allocator import restart_keeping_freed_memory
from snac_core.errors import SnacError
from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.evaluate import evaluate, to_markdown
from trainer.loop import train
from trainer.prepare import prepare
from trainer.publish import publish


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if arguments is None:
        restart_keeping_freed_memory()
        # What stops a container ends a run as Ctrl-C does: with a checkpoint.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        with logging_redirect_tqdm():
            options.run(options)
    except (SnacError, OSError) as error:
        return _failed(str(error))
    except torch.OutOfMemoryError:
        return _failed("out of memory: lower batch_size or eval_batch_size, or use bf16")
    except KeyboardInterrupt:
        print("snac-trainer: interrupted", file=sys.stderr)
        return 130
    return 0


def _failed(reason: str) -> int:
    print(f"snac-trainer: error: {' '.join(reason.split())}", file=sys.stderr)
    return 1


def _prepare(options: argparse.Namespace) -> None:
    split = prepare(
        options.input_dir,
        options.output_dir,
        train_ratio=options.train_ratio,
        seed=options.seed,
        group_by=options.group_by,
        val_groups=options.val_groups.split(",") if options.val_groups else (),
        copy=options.copy,
    )
    print(f"{split.train} recordings to train on, {split.val} to validate: {options.output_dir}")


def _train(options: argparse.Namespace) -> None:
    config = configuration.load(options.config, options.set)
    print(f"best model: {train(config, _device(options.device))}")


def _evaluate(options: argparse.Namespace) -> None:
    codec = snac_core.load(options.model, _device(options.device))
    report = evaluate(
        codec,
        options.data,
        group_by=options.group_by,
        max_seconds_per_group=options.max_seconds_per_group,
    )
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(to_markdown(report))


def _publish(options: argparse.Namespace) -> None:
    version = publish(
        options.checkpoint, options.store, half=options.half, model_card=options.model_card
    )
    print(f"published {version} to {options.store}")


def _device(name: str | None) -> torch.device:
    """Return the named device: a GPU's number, or what PyTorch calls it; by default a GPU."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{name}" if name.isdigit() else name)
    except RuntimeError as error:
        raise TrainerError(f"no device is called {name!r}; try 0 or cpu") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainerError(f"there is no {device} here: {torch.cuda.device_count()} GPUs")
    return device


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snac-trainer", description="Fine-tune SNAC models on one's own speech."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    group_help = (
        "finds the speaker, say: 'folder', or a regular expression whose first group (or whole "
        "match) in the file name is meant"
    )
    device_help = "a GPU's number, or cpu (default: a GPU if there is one)"

    command = commands.add_parser("prepare", help="divide recordings into train/ and val/")
    command.add_argument("--input-dir", type=Path, nargs="+", required=True, metavar="DIR")
    command.add_argument("--output-dir", type=Path, required=True, metavar="DIR")
    command.add_argument("--train-ratio", type=float, default=0.95, metavar="SHARE")
    command.add_argument("--seed", type=int, default=42, metavar="N")
    command.add_argument(
        "--group-by", metavar="PATTERN", help=f"{group_help}; a group is on one side only"
    )
    command.add_argument(
        "--val-groups", metavar="A,B,...", help="validate on these groups, whatever the ratio"
    )
    command.add_argument("--copy", action="store_true", help="copy files instead of linking")
    command.set_defaults(run=_prepare)

    command = commands.add_parser("train", help="train as a configuration says")
    command.add_argument("--config", type=Path, required=True, metavar="FILE")
    command.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="override a key"
    )
    command.add_argument("--device", help=device_help)
    command.set_defaults(run=_train)

    command = commands.add_parser("evaluate", help="measure how well a model reconstructs speech")
    command.add_argument("--model", required=True, metavar="REF", help="any model reference")
    command.add_argument("--data", type=Path, required=True, metavar="DIR")
    command.add_argument("--group-by", metavar="PATTERN", help=group_help)
    command.add_argument("--max-seconds-per-group", type=float, default=math.inf, metavar="N")
    command.add_argument("--output", type=Path, metavar="FILE", help="write all figures as JSON")
    command.add_argument("--device", help=device_help)
    command.set_defaults(run=_evaluate)

    command = commands.add_parser("publish", help="publish a checkpoint to a model store")
    command.add_argument("--checkpoint", type=Path, required=True, metavar="FILE")
    command.add_argument("--store", type=Path, required=True, metavar="DIR")
    command.add_argument("--half", action="store_true", help="store weights as float16")
    command.add_argument("--model-card", type=Path, metavar="FILE", help="Markdown to go along")
    command.set_defaults(run=_publish)
    return parser
