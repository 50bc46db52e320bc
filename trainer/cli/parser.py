"""The arguments of ``snac-trainer``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from snac_core.audio import Channel, parse_channel
from snac_core.errors import AudioError
from snac_core.utils.commands import add_strict, add_version


def _positive(text: str) -> int:
    """Parse a positive integer; argparse reports anything else."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _channel(text: str) -> Channel:
    try:
        return parse_channel(text)
    except AudioError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Reference(argparse.Action):
    """Prints the page of configuration keys, and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print all configuration keys and end")

    def __call__(self, parser: argparse.ArgumentParser, *arguments: object) -> None:
        """Print it."""
        from trainer.config import reference

        print(reference.page(), end="")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses has ``command``, the command's name."""
    top = argparse.ArgumentParser(
        prog="snac-trainer", description="Fine-tune SNAC models on one's own speech."
    )
    add_version(top)
    top.add_argument("--reference", action=_Reference)
    commands = top.add_subparsers(required=True, dest="command", metavar="COMMAND")
    group_help = (
        "finds the speaker, say: 'folder', or a regular expression whose first group (or whole "
        "match) in the file name is meant"
    )
    device_help = "a GPU's number, or cpu (default: a GPU if there is one)"

    command = commands.add_parser("prepare", help="divide recordings into train/ and val/")
    command.add_argument(
        "--input-dir",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders, or CSV, JSON-lines or Parquet manifests with a column 'path'",
    )
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
    command.add_argument("--flac", action="store_true", help="convert to mono FLAC")
    command.add_argument(
        "--sample-rate",
        type=_positive,
        default=24000,
        metavar="HZ",
        help="of converted recordings: that of the model (default: 24000)",
    )
    for name, default, what in (
        ("min-seconds", 0.0, "leave out what is shorter"),
        ("max-seconds", math.inf, "leave out what is longer"),
        ("min-loudness", -math.inf, "leave out what is quieter, in LUFS"),
        ("max-loudness", math.inf, "leave out what is louder, in LUFS"),
        ("min-bandwidth", 0.0, "leave out what has nothing above this frequency, in Hz"),
    ):
        command.add_argument(f"--{name}", type=float, default=default, metavar="N", help=what)
    command.add_argument("--shards", action="store_true", help="write WebDataset tar shards")
    command.add_argument("--shard-recordings", type=_positive, default=10_000, metavar="N")
    command.add_argument("--shard-mb", type=_positive, default=1000, metavar="N")
    command.add_argument(
        "--channel",
        type=_channel,
        default="average",
        metavar="C",
        help="with --flac: average (the default), loudest, or a channel's index from 0",
    )
    add_strict(command)
    command.add_argument(
        "--jobs", type=_positive, metavar="N", help="processes that read (default: one per CPU)"
    )

    command = commands.add_parser("train", help="train as a configuration says")
    command.add_argument("--config", type=Path, required=True, metavar="FILE")
    command.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="override a key"
    )
    command.add_argument("--device", help=device_help)
    command.add_argument(
        "--ddp", action="store_true", help="one process for each GPU; they divide each batch"
    )
    command.add_argument(
        "--nproc", type=int, metavar="N", help="N processes, on GPUs or with --device cpu on it"
    )
    command.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="with several processes: go on from the last checkpoint when one fails",
    )
    command.add_argument(
        "--resume",
        metavar="auto|FILE",
        help="go on from a checkpoint, or from the newest in the output folder if there is one",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="say what would be done and touch nothing"
    )

    command = commands.add_parser(
        "pretrain",
        help="train encoder and quantizer on spectra, without the decoder",
        description="Writes pretrained.pt into the configuration's output_dir; train with "
        "freeze_encoder and freeze_vq then teaches the decoder its tokens. Stopped, the same "
        "command goes on.",
    )
    command.add_argument("--config", type=Path, required=True, metavar="FILE")
    command.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="override a key"
    )
    command.add_argument("--device", help=device_help)

    command = commands.add_parser(
        "evaluate",
        help="measure how well a model reconstructs speech, alone or against its base",
        description="Prints a table of means. --output-dir also gets evaluation_results.json, "
        "per_file.parquet, samples/ to listen to and report.html.",
    )
    command.add_argument("--model", required=True, metavar="REF", help="any model reference")
    command.add_argument("--base", metavar="REF", help="the model to compare it with")
    command.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="PLACE",
        help="folders, manifests or shards, as val_data takes them",
    )
    command.add_argument("--output-dir", type=Path, metavar="DIR")
    command.add_argument(
        "--run",
        dest="run_dir",
        type=Path,
        metavar="DIR",
        help="a training run's output_dir: the loss is as configured there, and its curves go "
        "into the report",
    )
    command.add_argument(
        "--group-by",
        metavar="PATTERN",
        help=f"{group_help} (default: the groups that prepare's manifest has)",
    )
    command.add_argument("--max-seconds-per-group", type=float, default=math.inf, metavar="N")
    command.add_argument(
        "--samples", type=int, default=9, metavar="N", help="recordings to keep (default: 9)"
    )
    command.add_argument(
        "--measures", metavar="A,B,...", help="what to measure (default: all that is installed)"
    )
    command.add_argument(
        "--jobs", type=_positive, default=1, metavar="N", help="processes that measure"
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="write all figures as JSON")
    command.add_argument("--device", help=device_help)

    command = commands.add_parser("tokens-report", help="statistics of a tokenized corpus")
    command.add_argument(
        "corpus", type=Path, help="a folder of Parquet shards (snac-bulk) or .npz codes"
    )
    command.add_argument("--output-dir", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--codebook-size", type=int, default=4096, metavar="N", help="default: 4096"
    )
    command.add_argument(
        "--top", type=int, default=20, metavar="N", help="n-grams to list (default: 20)"
    )

    command = commands.add_parser("publish", help="publish a model to a model store or a hub")
    command.add_argument(
        "--model",
        "--checkpoint",
        required=True,
        metavar="REF",
        help="a checkpoint, or any other model: a folder, a store, a Hugging Face id, 'starter'",
    )
    command.add_argument("--store", type=Path, metavar="DIR", help="the model store")
    command.add_argument(
        "--push", metavar="OWNER/NAME", help="a model on the Hugging Face Hub, made if missing"
    )
    command.add_argument("--half", action="store_true", help="store weights as float16")
    command.add_argument("--model-card", type=Path, metavar="FILE", help="Markdown to go along")
    return top
