"""``snac-trainer prepare | train | evaluate | tokens-report | publish``.

Exit codes: 0 when all went well, 1 when it did not, 2 for wrong usage, 130 when interrupted;
0 for a training run that was asked to stop, as it has saved what it needs to go on.
Errors are one line each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from snac_core.errors import SnacError
from snac_core.utils.malloc import restart_keeping_freed_memory
from trainer import config as configuration
from trainer.config import reference
from trainer.errors import TrainerError
from trainer.runtime.distributed import (
    device_called,
    is_worker,
    joined_world,
    process_count,
)
from trainer.runtime.launcher import known_to_launcher, launch
from trainer.training.dry_run import plan
from trainer.training.loop import train
from trainer.training.publish import publish


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if arguments is None:
        restart_keeping_freed_memory()
        # What stops a container ends a run as Ctrl-C does: with a checkpoint.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # Before there is anything to save.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
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
    with _extra("prepare"):
        from trainer.preparation.prepare import prepare

    split = prepare(
        options.input_dir,
        options.output_dir,
        train_ratio=options.train_ratio,
        seed=options.seed,
        group_by=options.group_by,
        val_groups=options.val_groups.split(",") if options.val_groups else (),
        copy=options.copy,
        flac=options.flac,
        sample_rate=options.sample_rate,
        shards=options.shards,
        shard_recordings=options.shard_recordings,
        shard_bytes=options.shard_mb * 1e6,
        min_seconds=options.min_seconds,
        max_seconds=options.max_seconds,
        min_loudness=options.min_loudness,
        max_loudness=options.max_loudness,
        jobs=options.jobs,
    )
    print(f"{split.train} recordings to train on, {split.val} to validate: {options.output_dir}")


def _train(options: argparse.Namespace) -> None:
    overrides = list(options.set)
    if options.resume is not None:
        overrides.append(f"resume={json.dumps(options.resume)}")
    config = configuration.load(options.config, overrides)
    alone = not (options.ddp or options.nproc is not None) or is_worker()
    processes = 1 if alone else process_count(options.nproc, options.device)
    if options.dry_run:
        print(plan(config, processes))
        return
    if not alone:
        launch(_for_each_process(options, overrides), processes, options.max_restarts)
        return
    with joined_world(options.device) as world, known_to_launcher(world.rank):
        if not world.main:
            logging.getLogger().setLevel(logging.WARNING)
        best = train(config, world)
        if world.main:
            print(_outcome(best))


def _outcome(best: Path) -> str:
    """Return what a run made of its base, in one line."""
    if not best.exists():
        return "no best model yet"
    metrics = torch.load(best, map_location="cpu", weights_only=True, mmap=True)["metrics"]
    loss, base, gain = (
        metrics[name] for name in ("best_val_loss", "baseline_val_loss", "improvement")
    )
    interval = metrics.get("improvement_ci95", math.inf)
    verdict = "" if gain > interval else "; not better than the base beyond chance"
    return (
        f"best model: {best}: val_loss {loss:.4f}, base {base:.4f}, {-gain:+.2%} "
        f"(95 % interval {interval:.2%} to either side){verdict}"
    )


def _for_each_process(options: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Return the arguments with which each of several processes trains."""
    given = ["train", "--config", str(options.config)]
    given += [f"--set={override}" for override in overrides]
    return given + ([f"--device={options.device}"] if options.device == "cpu" else [])


def _evaluate(options: argparse.Namespace) -> None:
    with _extra("evaluate"):
        from trainer.evaluation import models, report
        from trainer.evaluation.evaluate import evaluate, to_markdown

    run: Path | None = options.run_dir
    evaluation = evaluate(
        models.load(options.model, options.base, device_called(options.device)),
        options.data,
        config=configuration.load(run / "config.json") if run is not None else None,
        group_by=options.group_by,
        max_seconds_per_group=options.max_seconds_per_group,
        output_dir=options.output_dir,
        samples=options.samples,
        measures=options.measures.split(",") if options.measures else None,
        jobs=options.jobs,
    )
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(evaluation.results, indent=1) + "\n")
    print(to_markdown(evaluation.results))
    if options.output_dir is not None:
        print(f"\nreport: {report.write(evaluation, options.output_dir, run)}")


def _tokens_report(options: argparse.Namespace) -> None:
    with _extra("tokens-report"):
        from trainer.tokens import report as tokens_report

    statistics = tokens_report.measure(options.corpus, options.codebook_size, options.top)
    print(tokens_report.to_markdown(statistics))
    print(f"\nreport: {tokens_report.write(statistics, options.output_dir)}")


@contextlib.contextmanager
def _extra(command: str) -> Iterator[None]:
    """Import what only some commands need, and say how to get what is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise TrainerError(
            f"{command} needs {error.name}: pip install 'snac-tokenizer[train]'"
        ) from error


def _publish(options: argparse.Namespace) -> None:
    version = publish(
        options.checkpoint, options.store, half=options.half, model_card=options.model_card
    )
    print(f"published {version} to {options.store}")


def _positive(text: str) -> int:
    """Return a number given on the command line; argparse says what is wrong with another."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


class _Reference(argparse.Action):
    """Prints the page of configuration keys, and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print all configuration keys and end")

    def __call__(self, parser: argparse.ArgumentParser, *arguments: object) -> None:
        """Print it."""
        print(reference.page(), end="")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snac-trainer", description="Fine-tune SNAC models on one's own speech."
    )
    parser.add_argument("--reference", action=_Reference)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
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
    ):
        command.add_argument(f"--{name}", type=float, default=default, metavar="N", help=what)
    command.add_argument("--shards", action="store_true", help="write WebDataset tar shards")
    command.add_argument("--shard-recordings", type=_positive, default=10_000, metavar="N")
    command.add_argument("--shard-mb", type=_positive, default=1000, metavar="N")
    command.add_argument(
        "--jobs", type=_positive, metavar="N", help="processes that read (default: one per CPU)"
    )
    command.set_defaults(run=_prepare)

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
    command.set_defaults(run=_train)

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
    command.set_defaults(run=_evaluate)

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
    command.set_defaults(run=_tokens_report)

    command = commands.add_parser("publish", help="publish a checkpoint to a model store")
    command.add_argument("--checkpoint", type=Path, required=True, metavar="FILE")
    command.add_argument("--store", type=Path, required=True, metavar="DIR")
    command.add_argument("--half", action="store_true", help="store weights as float16")
    command.add_argument("--model-card", type=Path, metavar="FILE", help="Markdown to go along")
    command.set_defaults(run=_publish)
    return parser
