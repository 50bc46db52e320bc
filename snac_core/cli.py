"""``snac-codec``: encode, decode, reconstruct and inspect from the command line.

Exit codes: 0 when all went well, 1 when the model or some input did not, 2 for wrong usage,
130 when interrupted. Results go to stdout; errors, one line each, and progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

import snac_core.utils.openmp  # noqa: F401 - before torch
from snac_core import audio
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.errors import AudioError, CodesError, SnacError
from snac_core.store import checkpoint
from snac_core.store.weights import build

AUDIO_OUTPUTS = (".wav", ".flac", ".ogg", ".opus", ".pcm")

_WRITE_CODES: Mapping[str, Callable[[Codes], bytes]] = {
    ".npz": Codes.to_npz,
    ".json": lambda codes: codes.to_json().encode(),
    ".msgpack": Codes.to_msgpack,
}
_READ_CODES: Mapping[str, Callable[[bytes, SnacConfig], Codes]] = {
    ".npz": Codes.from_npz,
    ".json": Codes.from_json,
    ".msgpack": Codes.from_msgpack,
}


class Figures(NamedTuple):
    """How close a reconstruction is to its recording; see `snac_core.quality`."""

    log_mel: float
    si_sdr: float
    stoi: float

    def __str__(self) -> str:
        return f"log-mel {self.log_mel:.3f}, SI-SDR {self.si_sdr:.2f} dB, STOI {self.stoi:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``snac-codec`` and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except (SnacError, OSError) as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        return 130


def encode(arguments: argparse.Namespace) -> int:
    """Turn audio files into codes files."""
    pairs = _pairs(arguments.input, arguments.output, audio.AUDIO_SUFFIXES, _WRITE_CODES)
    codec = _load(arguments)

    def work(source: Path, target: Path) -> str:
        (codes,) = codec.encode([audio.read(source, codec.sample_rate, channel=arguments.channel)])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_WRITE_CODES[target.suffix.lower()](codes))
        tokens = sum(map(len, codes.levels))
        return f"{source} -> {target}: {codes.duration:.2f} s, {tokens} tokens"

    return _each(pairs, work, progress=arguments.input.is_dir())


def decode(arguments: argparse.Namespace) -> int:
    """Turn codes files into audio files."""
    pairs = _pairs(arguments.input, arguments.output, _READ_CODES, AUDIO_OUTPUTS)
    codec = _load(arguments)

    def work(source: Path, target: Path) -> str:
        codes = _read_codes(source, codec.config)
        (samples,) = codec.decode([codes], noise=arguments.noise, seed=arguments.seed)
        _write_audio(target, samples, codec.sample_rate)
        return f"{source} -> {target}: {codes.duration:.2f} s"

    return _each(pairs, work, progress=arguments.input.is_dir())


def reconstruct(arguments: argparse.Namespace) -> int:
    """Encode and decode audio files, and print how close the results are."""
    pairs = _pairs(arguments.input, arguments.output, audio.AUDIO_SUFFIXES, AUDIO_OUTPUTS)
    codec = _load(arguments)
    rate = codec.config.bits_per_second / 1000
    figures: list[Figures] = []

    def work(source: Path, target: Path) -> str:
        if target.exists() and target.samefile(source):
            raise AudioError("this would overwrite the input with its reconstruction")
        samples = audio.read(source, codec.sample_rate, channel=arguments.channel)
        codes = codec.encode([samples])
        (result,) = codec.decode(codes, noise=arguments.noise, seed=arguments.seed)
        _write_audio(target, result, codec.sample_rate)
        figures.append(_measure(samples, result, codec.sample_rate))
        return f"{source} -> {target}: {rate:.3f} kbps, {figures[-1]}"

    code = _each(pairs, work, progress=arguments.input.is_dir())
    if len(figures) > 1:
        print(f"mean of {len(figures)} files: {_mean(figures)}")
    return code


def inspect(arguments: argparse.Namespace) -> int:
    """Print what a model is."""
    facts = describe(checkpoint.read(arguments.model))
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = json.dumps(value) if isinstance(value, dict) else value
        print(f"{name.replace('_', ' '):{width}}  {shown}")
    return 0


def describe(found: checkpoint.Checkpoint) -> dict[str, Any]:
    """Return what there is to say of a model, JSON-ready, having built it once."""
    config, manifest = found.config, found.manifest
    parameters = build(config, found.weights).parameters()
    facts: dict[str, Any] = {
        "version": found.version,
        "token_space": found.token_space,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "sample_rate": config.sampling_rate,
        "hop_samples": config.hop,
        "frame_samples": config.frame_samples,
        "frame_ms": round(1000 * config.frame_samples / config.sampling_rate, 3),
        "codes_per_frame": list(config.codes_per_frame),
        "codebook_size": config.codebook_size,
        "tokens_per_second": round(config.tokens_per_second, 3),
        "bits_per_second": round(config.bits_per_second, 3),
        "config": config.to_dict(),
    }
    if manifest is not None:
        facts |= {
            "created": manifest.created,
            "parent": manifest.parent,
            "metrics": dict(manifest.metrics),
        }
    return facts


def _pairs(
    source: Path, output: Path, inputs: Collection[str], outputs: Collection[str]
) -> list[tuple[Path, Path]]:
    """Return each input file with the output file it is to become.

    Into a folder, files keep their relative names and take the first suffix of ``outputs``.
    """
    into_file = output.suffix.lower() in outputs and not output.is_dir()
    suffix = next(iter(outputs))
    if source.is_file():
        return [(source, output if into_file else output / f"{source.stem}{suffix}")]
    if not source.is_dir():
        raise SnacError(f"{source} does not exist")
    if into_file:
        raise SnacError(f"{output} must be a folder, as {source} is one")
    files = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in inputs]
    if output.resolve() != source.resolve():
        # The results of an earlier run may lie inside the input.
        files = [path for path in files if output.resolve() not in path.resolve().parents]
    if not files:
        raise SnacError(f"{source} holds no files ending in {', '.join(inputs)}")
    return [(path, output / path.relative_to(source).with_suffix(suffix)) for path in files]


def _each(
    pairs: Sequence[tuple[Path, Path]], work: Callable[[Path, Path], str], *, progress: bool
) -> int:
    """Do ``work`` on every pair, report those that fail, and return the exit code."""
    sources: dict[Path, Path] = {}
    failed = 0
    # disable=None: a bar on a terminal only.
    for source, target in (bar := tqdm(pairs, unit="file", disable=None if progress else True)):
        try:
            if sources.setdefault(target, source) != source:
                raise SnacError(f"{target} was already written, from {sources[target]}")
            said = work(source, target)
        except (SnacError, OSError) as error:
            failed += 1
            with bar.external_write_mode(file=sys.stderr):
                _complain(error, source)
        else:
            with bar.external_write_mode(file=sys.stdout):
                print(_printable(said))
    if failed and progress:
        _complain(f"{failed} of {len(pairs)} files failed")
    return 1 if failed else 0


def _measure(
    samples: npt.NDArray[np.float32], result: npt.NDArray[np.float32], sample_rate: int
) -> Figures:
    # Here, as it brings SciPy along, which takes longer to import than a clip to encode.
    from snac_core import quality

    return Figures(
        quality.log_mel_distance(samples, result, sample_rate),
        quality.si_sdr(samples, result),
        quality.stoi(samples, result, sample_rate),
    )


def _mean(figures: Sequence[Figures]) -> Figures:
    """Return the mean of each figure over the files for which it is a number."""
    columns = [
        [value for value in column if math.isfinite(value)] for column in zip(*figures, strict=True)
    ]
    return Figures(*(sum(column) / len(column) if column else math.nan for column in columns))


def _load(arguments: argparse.Namespace) -> Codec:
    return checkpoint.load(arguments.model, device=arguments.device)


def _read_codes(path: Path, config: SnacConfig) -> Codes:
    reader = _READ_CODES.get(path.suffix.lower())
    if reader is None:
        raise CodesError(f"not a codes file: its name must end in {', '.join(_READ_CODES)}")
    return reader(path.read_bytes(), config)


def _write_audio(path: Path, samples: npt.NDArray[np.float32], sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, samples, sample_rate)


def _complain(error: object, path: Path | None = None) -> None:
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if path is not None and str(path) not in message:
        message = f"{path}: {message}"
    print(f"snac-codec: error: {_printable(' '.join(message.split()))}", file=sys.stderr)


def _printable(text: str) -> str:
    """Return ``text`` with the bytes of file names that are not UTF-8 spelled out."""
    return text.encode(errors="backslashreplace").decode()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snac-codec",
        description="Speech to hierarchical codes and back. Inputs are files or folders; for a "
        "folder, the output is a folder too.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "encode", encode, "turn audio into codes")
    command.add_argument("input", type=Path, metavar="IN", help="audio file, or folder of them")
    _output(command, _WRITE_CODES)
    _channel(command)

    command = _command(commands, "decode", decode, "turn codes into audio")
    command.add_argument("input", type=Path, metavar="IN", help="codes file, or folder of them")
    _output(command, AUDIO_OUTPUTS)
    _noise(command)

    command = _command(
        commands, "reconstruct", reconstruct, "encode and decode audio, and measure the result"
    )
    command.add_argument(
        "--input", type=Path, required=True, metavar="IN", help="audio file, or folder of them"
    )
    _output(command, AUDIO_OUTPUTS)
    _channel(command)
    _noise(command)

    command = commands.add_parser("inspect", help="print what a model is")
    command.set_defaults(command=inspect)
    command.add_argument(
        "model", nargs="?", default=checkpoint.STARTER, metavar="REF", help=_MODEL_HELP
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    return parser


_MODEL_HELP = (
    "model store, model folder, trainer checkpoint (.pt), Hugging Face id (owner/name), "
    "or 'starter' (the default)"
)


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help)
    command.set_defaults(command=run)
    command.add_argument(
        "--model", "--checkpoint", default=checkpoint.STARTER, metavar="REF", help=_MODEL_HELP
    )
    command.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda or cuda:N (default: a GPU if there is one)"
    )
    return command


def _output(command: argparse.ArgumentParser, suffixes: Collection[str]) -> None:
    """Add ``--output``: a folder, or a file whose suffix says the format."""

    def output(value: str) -> Path:
        path = Path(value)
        folder = path.is_dir() or value.endswith("/") or not path.suffix
        if not folder and path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(
                f"{value!r} must be a folder, or end in {', '.join(suffixes)}"
            )
        return path

    command.add_argument(
        "--output",
        type=output,
        required=True,
        metavar="OUT",
        help=f"file ending in {', '.join(suffixes)}, or folder",
    )


def _channel(command: argparse.ArgumentParser) -> None:
    def channel(value: str) -> audio.Channel:
        try:
            return audio.parse_channel(value)
        except AudioError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    command.add_argument(
        "--channel",
        type=channel,
        default="average",
        metavar="C",
        help="average (the default), loudest, or a channel's index from 0",
    )


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


if __name__ == "__main__":
    sys.exit(main())
