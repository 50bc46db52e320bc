"""``snac-bulk``: corpora into tokens.

    snac-bulk tokenize --input-dir recordings --output-dir tokens --model starter

Exit codes: 0 done (files that could not be read are counted and have a row that says why),
1 the model or the folders cannot be used, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from snac_core.errors import SnacError
from snac_core.utils.commands import add_version, complain, extra, progress


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    # Before Ray is imported: it reports usage over the network unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with extra("bulk", "snac-bulk tokenize"):
            import ray

            from bulk.tokenize import Summary, tokenize_corpus
    except SnacError as error:
        complain("snac-bulk", error)
        return 1

    # The bar below says how far it is; Ray need only say what goes wrong.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        if not ray.is_initialized():
            ray.init(logging_level=logging.WARNING)
        with progress(unit="file") as bar:

            def report(summary: Summary) -> None:
                bar.total, bar.n = summary.total, summary.total - summary.remaining
                bar.refresh()

            summary = tokenize_corpus(
                arguments.input_dir,
                arguments.output_dir,
                arguments.model,
                num_actors=arguments.num_actors or _default_actors(arguments.device),
                device=arguments.device,
                report=report,
            )
    except (SnacError, OSError) as error:
        complain("snac-bulk", error)
        return 1
    except KeyboardInterrupt:
        return 130
    print(
        f"tokenized {summary.tokenized} files ({summary.seconds:.1f} s of audio), "
        f"failed {summary.failed}, skipped {summary.skipped} already done"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="snac-bulk", description="Corpora into tokens.")
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    tokenize = commands.add_parser(
        "tokenize",
        help="a folder of recordings into Parquet shards of codes",
        description="Tokenize a folder of recordings into Parquet shards of codes. Run it again "
        "after an interruption or with more recordings: files already done are skipped. "
        "RAY_ADDRESS names a running Ray cluster; without it, this machine is used.",
    )
    tokenize.add_argument("--input-dir", type=Path, required=True, help="searched recursively")
    tokenize.add_argument("--output-dir", type=Path, required=True, help="made if missing")
    tokenize.add_argument(
        "--model",
        default="starter",
        help="model store, folder, checkpoint or Hugging Face id (default: %(default)s)",
    )
    tokenize.add_argument(
        "--num-actors",
        type=_count,
        help="codecs at work at once (default: one for each GPU, or for each core on a CPU)",
    )
    tokenize.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="torch device of every codec (default here: %(default)s)",
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _default_actors(device: str) -> int:
    if device.startswith("cuda"):
        return max(1, torch.cuda.device_count())
    return os.cpu_count() or 1


if __name__ == "__main__":
    raise SystemExit(main())
