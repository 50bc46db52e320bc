"""The arguments of ``snac-codec``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from snac_core import audio
from snac_core.errors import AudioError
from snac_core.layouts import LAYOUTS
from snac_core.utils.commands import add_strict, add_version

_MODEL_HELP = (
    "model store, model folder, trainer checkpoint (.pt), Hugging Face id (owner/name), "
    "or 'starter' (the default)"
)
_CODES = ("npz", "json", "msgpack")
_AUDIO = ("wav", "flac", "ogg", "opus", "pcm")
_PICTURES = ("png", "svg", "pdf")


def parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses has ``command``, the name of a function."""
    top = argparse.ArgumentParser(
        prog="snac-codec",
        description="Speech to hierarchical codes and back. Inputs are files, folders, or - for "
        "standard input; with several inputs or a folder, the output is a folder.",
    )
    add_version(top)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "encode", "turn audio into codes")
    _inputs(command, "audio file")
    _output(command, _CODES, "json")
    _channel(command)
    add_strict(command)

    command = _command(commands, "decode", "turn codes into audio")
    _inputs(command, "file of codes, or of tokens in a layout,")
    _output(command, _AUDIO, "wav")
    _layout(command, "of files that do not name one (default: hierarchical)")
    _noise(command)
    add_strict(command)

    command = _command(commands, "reconstruct", "encode and decode audio, and measure the result")
    _inputs(command, "audio file")
    command.add_argument(
        "--input", dest="inputs_too", type=Path, action="append", default=[], help=argparse.SUPPRESS
    )
    _output(command, _AUDIO, "wav")
    _channel(command)
    _noise(command)
    add_strict(command)

    command = _command(commands, "tokens", "print the tokens of audio, or of files of codes")
    command.description = (
        "One line of JSON for each input: its tokens; with several inputs or a folder, an object "
        "with its name and its tokens."
    )
    _inputs(command, "audio file or file of codes")
    _layout(command, "to print (default: hierarchical)")
    _channel(command)
    add_strict(command)

    command = _command(commands, "plot", "draw waveform, spectrogram and tokens")
    _inputs(command, "audio file or file of codes")
    _output(command, _PICTURES, "png")
    _channel(command)
    add_strict(command)

    command = commands.add_parser("inspect", help="print what a model is")
    command.set_defaults(command="inspect", parser=command)
    _model_argument(command)
    command.add_argument("--json", action="store_true", help="print JSON")

    command = commands.add_parser(
        "export",
        help="write a model for others: the package snac, ONNX, the Hugging Face Hub",
        description="upstream: config.json and pytorch_model.bin, which snac.SNAC.from_pretrained "
        "loads. onnx: encoder.onnx and decoder.onnx, for clips of any length.",
    )
    command.set_defaults(command="export", parser=command)
    command.add_argument("model", metavar="REF", help=_MODEL_HELP)
    command.add_argument("output", type=Path, metavar="OUT", help="folder, made if missing")
    command.add_argument(
        "--format", choices=("upstream", "onnx"), default="upstream", help="default: upstream"
    )
    command.add_argument(
        "--push", metavar="OWNER/NAME", help="upload OUT to this model of the Hugging Face Hub"
    )
    command.add_argument(
        "--model-card", type=Path, metavar="FILE", help="its README.md (default: made up)"
    )
    return top


def _model_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", nargs="?", default="starter", metavar="REF", help=_MODEL_HELP)


def _command(commands: Any, name: str, help: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help)
    command.set_defaults(command=name, parser=command, format=None, output=None, inputs_too=[])
    command.add_argument(
        "--model", "--checkpoint", default="starter", metavar="REF", help=_MODEL_HELP
    )
    command.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda or cuda:N (default: a GPU if there is one)"
    )
    return command


def _inputs(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument(
        "inputs", type=Path, nargs="*", metavar="IN", help=f"{what} or folder, or - for stdin"
    )


def _output(command: argparse.ArgumentParser, formats: tuple[str, ...], standard: str) -> None:
    command.usage = f"snac-codec {command.prog.split()[-1]} [OPTIONS] IN... (OUT | -o OUT)"
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help=f"file ending in {', '.join(f'.{name}' for name in formats)}, a folder, or - for "
        "stdout; without -o, the last of the names",
    )
    command.add_argument(
        "--format",
        choices=formats,
        help=f"format in a folder (default: {formats[0]}) and on stdout (default: {standard})",
    )


def _layout(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--layout", metavar="NAME", help=f"layout {what}: {', '.join(LAYOUTS)}")
    command.add_argument(
        "--base", type=int, metavar="N", help="token id of code 0, in layouts that have one"
    )


def _channel(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--channel",
        type=channel,
        default="average",
        metavar="C",
        help="average (the default), loudest, or a channel's index from 0",
    )


def channel(value: str) -> audio.Channel:
    """Return the channel that an argument names."""
    try:
        return audio.parse_channel(value)
    except AudioError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _noise(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--noise",
        choices=["seeded", "off"],
        default="seeded",
        help="the decoder's noise (default: seeded)",
    )
    command.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="which noise (default: 0)"
    )


def _seed(value: str) -> int:
    seed = int(value)
    if not -(2**63) <= seed < 2**63:
        raise argparse.ArgumentTypeError(f"{value} does not fit 64 bits")
    return seed
