"""``snac-bulk``: corpora into tokens, and back.

    snac-bulk encode recordings --output tokens
    snac-bulk decode tokens --output recordings-again
    snac-bulk verify tokens

Exit codes: 0 all is done, 1 the input, the output or the model cannot be used, 2 wrong usage,
3 done, but some clips failed (``errors.parquet`` says why) or did not verify, 4 stopped because
more failed than ``--max-errors``, 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from bulk.errors import TooManyErrorsError
from snac_core.audio import parse_channel
from snac_core.errors import AudioError, SnacError
from snac_core.layouts import LAYOUTS
from snac_core.utils.commands import add_version, complain, extra

SOURCES = ("folder", "manifest", "nemo", "lhotse", "kaldi", "parquet", "arrow", "webdataset")
FORMATS = ("parquet", "webdataset", "jsonl")
"""As `bulk.sources` and `bulk.output` have them, which need what may not be installed."""
MOST_REASONS = 10
"""Kinds of failure that are printed; all are in the output."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        with extra("bulk", "snac-bulk"):
            return int(arguments.command(arguments))
    except TooManyErrorsError as error:
        _complain(error)
        return 4
    except (SnacError, OSError) as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        return 130


def encode(arguments: argparse.Namespace) -> int:
    """Encode a corpus."""
    # Ray takes seconds to import: not for --help.
    from bulk import cluster
    from bulk.encode import EncodeOptions, encode
    from bulk.output import RowOptions
    from bulk.sources import Options

    rows = RowOptions(
        arguments.layout,
        arguments.base,
        arguments.training_rows is not None,
        arguments.drop_repeated_frames,
        arguments.text_column,
    )
    source = Options(arguments.source, arguments.audio_column, arguments.id_column, arguments.split)
    options = EncodeOptions(
        inputs=arguments.input,
        output=arguments.output,
        model=arguments.model,
        source=source,
        rows=rows,
        format=arguments.format,
        channel=arguments.channel,
        min_seconds=arguments.min_seconds,
        max_seconds=arguments.max_seconds,
        device=arguments.device,
        codecs=arguments.num_actors,
        clips_per_shard=arguments.clips_per_shard,
        max_errors=arguments.max_errors,
    )
    cluster.connect(arguments.address)
    summary = encode(options, quiet=False)
    print(
        f"encoded {summary.done} clips ({summary.seconds:.1f} s of audio), failed "
        f"{summary.failed}, left out {summary.left_out}, skipped {summary.skipped} already done"
    )
    for reason, count in list(summary.reasons.items())[:MOST_REASONS]:
        _complain(f"{count} x {reason}", "failed")
    if summary.failed:
        _complain(f"{arguments.output}/errors.parquet names every clip that failed", "note")
    return 3 if summary.failed else 0


def decode(arguments: argparse.Namespace) -> int:
    """Decode an output into recordings."""
    from bulk import cluster
    from bulk.decode import decode

    cluster.connect(arguments.address)
    made = decode(
        arguments.input,
        arguments.output,
        arguments.model,
        suffix=f".{arguments.format}",
        device=arguments.device,
        codecs=arguments.num_actors,
    )
    print(
        f"decoded {made.written} clips ({made.seconds:.1f} s of audio), failed "
        f"{len(made.faults)}, skipped {made.skipped} already there"
    )
    for clip, reason in made.faults[:MOST_REASONS]:
        _complain(f"{clip}: {reason}", "failed")
    return 3 if made.faults else 0


def verify(arguments: argparse.Namespace) -> int:
    """Look at an output."""
    from bulk import cluster
    from bulk.verify import verify

    cluster.connect(arguments.address)
    verdict = verify(
        arguments.input,
        arguments.model,
        sample=arguments.sample,
        decode=not arguments.codes_only,
        device=arguments.device,
        codecs=arguments.num_actors,
    )
    print(
        f"verified {verdict.rows} rows, encoded {verdict.encoded_again} again, found "
        f"{len(verdict.faults)} faults"
    )
    for fault in verdict.faults[:MOST_REASONS]:
        _complain(fault, "fault")
    return 3 if verdict.faults else 0


def _complain(error: object, kind: str = "error") -> None:
    complain("snac-bulk", error, kind=kind)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="snac-bulk", description="Corpora into tokens.")
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _encode_parser(commands)
    _tokenize_parser(commands)
    _decode_parser(commands)
    _verify_parser(commands)
    return parser


def _encode_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "encode",
        help="a corpus into rows of codes",
        description="Encode a corpus into rows of codes. Run it again after an interruption, or "
        "with more recordings: clips that are done are skipped, and those that failed or changed "
        "are done again.",
    )
    parser.add_argument(
        "input",
        nargs="+",
        help="a folder of recordings; a manifest (.csv, .jsonl, .parquet; NeMo, Lhotse, Kaldi); "
        "Parquet, Arrow or WebDataset files, as folder or pattern; hub:owner/name; or the URL of "
        "any of these",
    )
    parser.add_argument("--output", required=True, help="a folder, or its URL; made if missing")
    inputs = parser.add_argument_group("input")
    inputs.add_argument("--source", choices=["auto", *SOURCES], default="auto", help="its kind")
    inputs.add_argument("--audio-column", help="of recordings, or of their names in a manifest")
    inputs.add_argument("--id-column", help="of ids that differ")
    inputs.add_argument("--split", default="train", help="of hub:owner/name (%(default)s)")
    inputs.add_argument(
        "--channel", type=_channel, default="average", help="average, loudest or an index"
    )
    inputs.add_argument("--min-seconds", type=float, default=0.0, help="leave shorter clips out")
    inputs.add_argument("--max-seconds", type=float, help="leave longer clips out")
    rows = parser.add_argument_group("rows")
    rows.add_argument("--format", choices=FORMATS, default="parquet", help="(%(default)s)")
    layouts = [name for name in LAYOUTS if name != "hierarchical"]
    rows.add_argument("--layout", choices=layouts, help="a column of tokens beside the levels")
    rows.add_argument("--base", type=int, help="first token id, for layouts that have one")
    rows.add_argument(
        "--training-rows",
        choices=["orpheus"],
        help="text and codes_list in place of levels, as its fine-tuning script reads them",
    )
    rows.add_argument(
        "--drop-repeated-frames",
        action="store_true",
        help="in training rows, as the published recipe does",
    )
    rows.add_argument("--text-column", default="text", help="of training rows (%(default)s)")
    rows.add_argument("--clips-per-shard", type=_count, default=1024, help="(%(default)s)")
    _common(parser)
    parser.add_argument(
        "--max-errors", type=_count_or_none, help="stop when more clips failed (no limit)"
    )
    parser.set_defaults(command=encode)


def _tokenize_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command of 0.1: ``encode`` of a folder."""
    parser = commands.add_parser("tokenize", help="the same for one folder, as in version 0.1")
    parser.add_argument("--input-dir", dest="input", type=lambda text: [text], required=True)
    parser.add_argument("--output-dir", dest="output", required=True)
    _common(parser)
    parser.set_defaults(
        command=encode,
        source="folder",
        audio_column=None,
        id_column=None,
        split="train",
        channel="average",
        min_seconds=0.0,
        max_seconds=None,
        format="parquet",
        layout=None,
        base=None,
        training_rows=None,
        drop_repeated_frames=False,
        text_column="text",
        clips_per_shard=256,
        max_errors=None,
    )


def _decode_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "decode",
        help="rows of codes into recordings",
        description="Decode every row into a recording that is named by its id. Recordings that "
        "are there are skipped.",
    )
    parser.add_argument("input", help="an output of encode")
    parser.add_argument("--output", required=True, help="a folder, or its URL; made if missing")
    parser.add_argument(
        "--format", choices=["wav", "flac", "opus"], default="wav", help="(%(default)s)"
    )
    _common(parser)
    parser.set_defaults(command=decode)


def _verify_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "verify",
        help="whether rows are whole and their codes right",
        description="Check that every clip is there once, that every row decodes to its length, "
        "and that some recordings, encoded again, give their codes.",
    )
    parser.add_argument("input", help="an output of encode")
    parser.add_argument(
        "--sample", type=_count_or_none, default=16, help="clips to encode again (%(default)s)"
    )
    parser.add_argument("--codes-only", action="store_true", help="check codes without decoding")
    _common(parser)
    parser.set_defaults(command=verify)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="starter",
        help="model store, folder, checkpoint or Hugging Face id (default: %(default)s)",
    )
    parser.add_argument(
        "--num-actors",
        type=_count,
        help="codecs at work at once (default: one for each GPU, or for each core on a CPU, and "
        "more as nodes join)",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="torch device of every codec (default here: %(default)s)",
    )
    parser.add_argument(
        "--address", help="of a Ray cluster, or 'auto' (default: RAY_ADDRESS, or this machine)"
    )


def _channel(text: str) -> int | str:
    try:
        return parse_channel(text)
    except AudioError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _count_or_none(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {value}")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
