"""``snac-trainer prepare | train | publish``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from snac_core.allocator import restart_keeping_freed_memory
from snac_core.errors import SnacError
from trainer import config as configuration
from trainer.loop import train
from trainer.prepare import prepare
from trainer.publish import publish


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    if arguments is None:
        restart_keeping_freed_memory()
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        options.run(options)
    except SnacError as error:
        print(f"snac-trainer: error: {error}", file=sys.stderr)
        return 1
    return 0


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
    device = options.device or ("0" if torch.cuda.is_available() else "cpu")
    device = torch.device("cuda", int(device)) if device.isdigit() else torch.device(device)
    print(f"best model: {train(config, device)}")


def _publish(options: argparse.Namespace) -> None:
    version = publish(
        options.checkpoint, options.store, half=options.half, model_card=options.model_card
    )
    print(f"published {version} to {options.store}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="snac-trainer", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("prepare", help="divide recordings into train/ and val/")
    command.add_argument("--input-dir", type=Path, nargs="+", required=True)
    command.add_argument("--output-dir", type=Path, required=True)
    command.add_argument("--train-ratio", type=float, default=0.95)
    command.add_argument("--seed", type=int, default=42)
    command.add_argument(
        "--group-by",
        metavar="PATTERN",
        help="'folder' or a regular expression on the file name; a group is on one side only",
    )
    command.add_argument(
        "--val-groups", metavar="A,B,...", help="validate on these groups, whatever the ratio"
    )
    command.add_argument("--copy", action="store_true", help="copy files instead of linking")
    command.set_defaults(run=_prepare)

    command = commands.add_parser("train", help="train as a configuration says")
    command.add_argument("--config", type=Path, required=True)
    command.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="override a key"
    )
    command.add_argument("--device", help="a GPU's number, or cpu; the first GPU if there is one")
    command.set_defaults(run=_train)

    command = commands.add_parser("publish", help="publish a checkpoint to a model store")
    command.add_argument("--checkpoint", type=Path, required=True)
    command.add_argument("--store", type=Path, required=True)
    command.add_argument("--half", action="store_true", help="store weights as float16")
    command.add_argument("--model-card", type=Path)
    command.set_defaults(run=_publish)
    return parser
