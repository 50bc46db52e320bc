"""What each command of ``snac-codec`` does; each returns its exit code."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from snac_core import audio
from snac_core.cli import codes_files
from snac_core.cli.files import STANDARD, Plan, UsageError, content, each, plan, search, write
from snac_core.codec import Codec
from snac_core.errors import AudioError, SnacError
from snac_core.layouts import to_layout
from snac_core.store import checkpoint
from snac_core.store.weights import build
from snac_core.utils.commands import extra, printable

AUDIO_OUTPUTS = (".wav", ".flac", ".ogg", ".opus", ".pcm")
PICTURES = (".png", ".svg", ".pdf")


class Figures(NamedTuple):
    """How close a reconstruction is to its recording; see `snac_core.quality`."""

    log_mel: float
    si_sdr: float
    stoi: float

    def __str__(self) -> str:
        return f"log-mel {self.log_mel:.3f}, SI-SDR {self.si_sdr:.2f} dB, STOI {self.stoi:.3f}"


def encode(arguments: argparse.Namespace) -> int:
    """Turn audio files into codes files."""
    planned = plan(arguments, audio.AUDIO_SUFFIXES, codes_files.SUFFIXES, "json")
    codec = _load(arguments)

    def work(source: Path, target: Path) -> str:
        (codes,) = codec.encode([_samples(source, codec.sample_rate, arguments)])
        write(target, codes_files.WRITERS[_format(target, arguments)](codes))
        tokens = sum(map(len, codes.levels))
        return f"{source} -> {target}: {codes.duration:.2f} s, {tokens} tokens"

    return each(planned, work, strict=arguments.strict)


def decode(arguments: argparse.Namespace) -> int:
    """Turn codes files into audio files."""
    planned = plan(arguments, codes_files.SUFFIXES, AUDIO_OUTPUTS, "wav")
    codec = _load(arguments)

    def work(source: Path, target: Path) -> str:
        codes = codes_files.read(
            source, codec.config, codec.token_space, arguments.layout, arguments.base
        )
        (samples,) = codec.decode([codes], noise=arguments.noise, seed=arguments.seed)
        _write_audio(target, samples, codec.sample_rate, arguments)
        return f"{source} -> {target}: {codes.duration:.2f} s"

    return each(planned, work, strict=arguments.strict)


def reconstruct(arguments: argparse.Namespace) -> int:
    """Encode and decode audio files, and print how close the results are."""
    arguments.inputs = [*arguments.inputs, *arguments.inputs_too]
    planned = plan(arguments, audio.AUDIO_SUFFIXES, AUDIO_OUTPUTS, "wav")
    codec = _load(arguments)
    rate = codec.config.bits_per_second / 1000
    figures: list[Figures] = []

    def work(source: Path, target: Path) -> str:
        if source != STANDARD and target.exists() and target.samefile(source):
            raise AudioError("this would overwrite the input with its reconstruction")
        samples = _samples(source, codec.sample_rate, arguments)
        codes = codec.encode([samples])
        (result,) = codec.decode(codes, noise=arguments.noise, seed=arguments.seed)
        _write_audio(target, result, codec.sample_rate, arguments)
        figures.append(_measure(samples, result, codec.sample_rate))
        return f"{source} -> {target}: {rate:.3f} kbps, {figures[-1]}"

    code = each(planned, work, strict=arguments.strict)
    if len(figures) > 1:
        print(f"mean of {len(figures)} files: {_mean(figures)}")
    return code


def tokens(arguments: argparse.Namespace) -> int:
    """Print tokens in a layout, one line of JSON for each input."""
    planned = _readable(arguments.inputs)
    codec = _load(arguments)
    layout = arguments.layout or "hierarchical"

    def work(source: Path, target: Path) -> str:
        if source.suffix.lower() in codes_files.SUFFIXES:
            codes = codes_files.read(source, codec.config, codec.token_space)
        else:
            (codes,) = codec.encode([_samples(source, codec.sample_rate, arguments)])
        found = to_layout(codes.levels, layout, config=codec.config, base=arguments.base)
        if planned.searched:
            return json.dumps({"input": printable(str(source)), "tokens": found})
        return json.dumps(found)

    return each(planned, work, strict=arguments.strict)


def plot(arguments: argparse.Namespace) -> int:
    """Draw waveform, spectrogram and tokens of audio files, or of files of codes."""
    suffixes = (*audio.AUDIO_SUFFIXES, *codes_files.SUFFIXES)
    planned = plan(arguments, suffixes, PICTURES, "png")
    codec = _load(arguments)

    def work(source: Path, target: Path) -> str:
        # Here, as it brings SciPy and matplotlib along.
        from snac_core.plot import draw

        if source.suffix.lower() in codes_files.SUFFIXES:
            codes = codes_files.read(source, codec.config, codec.token_space)
            (samples,) = codec.decode([codes])
        else:
            samples = _samples(source, codec.sample_rate, arguments)
            (codes,) = codec.encode([samples])
        said = f"{codes.duration:.2f} s, {sum(map(len, codes.levels))} tokens"
        title = f"{printable(source.name)}: {said}"
        write(target, draw(samples, codes, codec.config, title, _format(target, arguments)))
        return f"{source} -> {target}: {said}"

    return each(planned, work, strict=arguments.strict)


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


def export(arguments: argparse.Namespace) -> int:
    """Write a model in the format of another program, and upload it where that is asked for."""
    from snac_core.export import model_card, push_folder, write_upstream

    found = checkpoint.read(arguments.model)
    card = arguments.model_card.read_text("utf-8") if arguments.model_card else model_card(found)
    if arguments.format == "onnx":
        with extra("onnx", "snac-codec export --format onnx"):
            from snac_core.export.onnx_graph import operators, write_onnx

        files = write_onnx(found, arguments.output)
        (arguments.output / "README.md").write_text(card, "utf-8")
        for path in files:
            print(f"{path}: {', '.join(operators(path))}")
    else:
        for path in write_upstream(found, arguments.output, card):
            print(path)
    if arguments.push:
        print(f"pushed to {push_folder(arguments.output, arguments.push, found.version)}")
    return 0


def describe(found: checkpoint.Checkpoint) -> dict[str, Any]:
    """Build a model once, and return its description, JSON-ready."""
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


def _readable(inputs: Sequence[Path]) -> Plan:
    """Return recordings and files of codes, without outputs."""
    if not inputs:
        raise UsageError("an input is needed")
    suffixes = (*audio.AUDIO_SUFFIXES, *codes_files.SUFFIXES)
    pairs: list[tuple[Path, Path]] = []
    skipped: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found, others = search(path, suffixes)
            pairs += [(one, one) for one in found]
            skipped += others
        elif path == STANDARD or path.is_file():
            pairs.append((path, path.with_name("stdin") if path == STANDARD else path))
        else:
            raise SnacError(f"{path} does not exist")
    return Plan(pairs, skipped, len(inputs) > 1 or any(path.is_dir() for path in inputs))


def _samples(
    source: Path, sample_rate: int, arguments: argparse.Namespace
) -> npt.NDArray[np.float32]:
    place = content(source) if source == STANDARD else source
    return audio.read(place, sample_rate, channel=arguments.channel)


def _format(target: Path, arguments: argparse.Namespace) -> str:
    return str(arguments.format) if target == STANDARD else target.suffix.lower().lstrip(".")


def _write_audio(
    target: Path, samples: npt.NDArray[np.float32], rate: int, arguments: argparse.Namespace
) -> None:
    kind = audio.format_of(f"x.{_format(target, arguments)}")
    if target == STANDARD:
        write(target, audio.encode_bytes(samples, rate, kind))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    audio.write(target, samples, rate, kind)


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
