"""The engine on a CUDA GPU against the published package, same weights, same clips, in turns.

    python bench/gpu.py [--speech DIR] [--hours 1] [--rounds 3] [--skip compiled streams]

One command for who has a GPU for ten minutes. It measures every way that there is to compute the
network there, alone on one batch and as a codec from samples to codes: upstream, layers as
written, rows with Triton kernels, both in CUDA graphs, and torch.compile. Encoding is fp32 with
TF32 off; decoding is fp32 and bf16, the latter with its log-mel difference from fp32. Writes
``bench/results/gpu.json``, ``gpu.md`` and ``gpu-profile.txt`` after each part, so that what was
measured is there when time is up. ``--rehearse`` runs all of it on a CPU, for a tiny model, to
see that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import RATE, RESULTS, Row, clips, faster, in_turns, padded, save, upstream
from torch.profiler import ProfilerActivity, profile

if "--rehearse" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # Before Triton is imported.

from cpu import work
from gpu_ways import COMPILED, GRAPH, LAYERS, ROWS, Stage, networks, rates, streams, traffic

from snac_core import audio
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.config import PRESETS
from snac_core.model import SNAC
from snac_core.quality import log_mel_distance
from snac_core.types import Samples

UPSTREAM = "upstream, clip by clip"
BATCHED = "upstream, one batch"
BARS = {"encode, fp32": 5.0, "decode, bf16": 8.0}
KINDS = {
    "encode, fp32": torch.float32,
    "decode, fp32": torch.float32,
    "decode, bf16": torch.bfloat16,
}


class Report:
    """What was measured so far."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.more: dict[str, float] = {}

    def save(self) -> None:
        """Write and print it."""
        if self.stage.real:
            save("gpu", self.rows, self.notes, self.more)

    def note(self, text: str) -> None:
        """Add a line, and say it at once."""
        self.notes.append(text)
        print(f"- {text}", flush=True)

    def add(self, what: str, peer: str, times: dict[str, list[float]], seconds: float) -> None:
        """Add a row for each that is not the peer."""
        for name, own in times.items():
            if name != peer:
                bar = BARS.get(what) if name.startswith("codec") else None
                pair = {"ours": own, peer: times[peer]}
                self.rows.append(faster(f"{what}: {name}", peer, pair, seconds, bar))
                low, middle, high = self.rows[-1].ratio
                print(
                    f"{self.rows[-1].what}: {self.rows[-1].ours:.0f} x real time, {middle:.2f} "
                    f"({low:.2f} - {high:.2f}) of {peer}",
                    flush=True,
                )


def speech(folder: Path | None, hours: float) -> list[Samples]:
    """Return clips of 10 s: those of a folder's files, or speech-like ones, over and over."""
    wanted = max(1, round(hours * 360))
    found: list[Samples] = []
    if folder is not None:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in (".wav", ".flac", ".ogg", ".opus", ".mp3"):
                wave = audio.read(path, RATE)
                found += [wave[at : at + 10 * RATE] for at in range(0, len(wave), 10 * RATE)]
            if len(found) >= wanted:
                break
    found = found or clips(min(wanted, 60), 10.0, 10.0)
    return (found * (wanted // len(found) + 1))[:wanted]


def differing(ours: list[Codes], theirs: list[Codes]) -> tuple[int, int]:
    """Return how many codes differ, of how many."""
    pairs = [
        (a, b)
        for x, y in zip(ours, theirs, strict=True)
        for a, b in zip(x.levels, y.levels, strict=True)
    ]
    return sum(int((a != b).sum()) for a, b in pairs), sum(a.size for a, _ in pairs)


def encode_upstream(model: Any, waves: list[Samples], device: torch.device) -> list[Codes]:
    """Return the published package's codes of each clip."""
    made = []
    for wave in waves:
        levels = model.encode(padded(wave).to(device))
        arrays = tuple(level[0].cpu().numpy().astype(np.int32) for level in levels)
        made.append(Codes(arrays, len(wave), RATE))
    return made


def one_batch(
    report: Report, theirs: Any, model: SNAC, sizes: list[tuple[int, int]], rounds: int
) -> None:
    """Measure each way on batches that lie on the GPU, of so many clips of so many frames."""
    stage, found = report.stage, rates(report.stage)
    report.more |= {f"rate of {name}": value for name, value in found.items()}
    report.note(
        f"measured here: {found[torch.float32]:.0f} GFLOP/s of fp32 products, "
        f"{found[torch.bfloat16]:.0f} of bf16 ones, {found['copy']:.0f} GB/s of copies"
    )
    on_cpu = Stage(torch.device("cpu"), stage.config).codec(theirs, "off")
    gflop = {kind: work(on_cpu, kind) for kind in ("encode", "decode")}
    for count, frames in sizes:
        samples = frames * stage.config.frame_samples
        seconds = count * samples / RATE
        waves = [
            wave[:samples] for wave in clips(count, samples / RATE + 0.1, samples / RATE + 0.1)
        ]
        batch = torch.cat([padded(wave) for wave in waves]).to(stage.device)
        codes = theirs.encode(batch)
        for kind, dtype in KINDS.items():
            ways = networks(stage, model, dtype)
            direction, half = kind[:6], dtype == torch.bfloat16
            runs: dict[str, Callable[[], Any]] = {
                name: functools.partial(network.encode, batch)
                if direction == "encode"
                else functools.partial(_decode, stage, network, codes, half)
                for name, network in ways.items()
            }
            runs[BATCHED] = (
                functools.partial(theirs.encode, batch)
                if direction == "encode"
                else functools.partial(theirs.decode, codes)
            )
            what = f"{kind}, {count} of {samples / RATE:.1f} s on the GPU"
            for name, run in runs.items():
                run()  # A graph is captured the second time: `in_turns` counts none of the two.
                if direction == "encode":
                    wrong = sum(int((a != b).sum()) for a, b in zip(run(), codes, strict=True))
                    total = sum(level.numel() for level in codes)
                    report.note(f"{what}, {name}: {wrong} of {total} codes differ from upstream's")
            times = in_turns({name: stage.finished(run) for name, run in runs.items()}, rounds)
            report.add(what, BATCHED, times, seconds)
            best = min(times[ROWS + GRAPH]) / seconds
            products = gflop[direction] / found[dtype]
            moves = traffic(stage.config, direction, dtype.itemsize) / found["copy"] / 1e9
            report.note(
                f"{what}, {ROWS}{GRAPH}: products alone are {products / best:.0%} of the time at "
                f"the rate above, what it moves {moves / best:.0%} (bar: the larger >= 30%)"
            )
        report.save()


def _decode(stage: Stage, network: Any, codes: Any, half: bool) -> Any:
    with torch.autocast(stage.device.type, torch.bfloat16, enabled=half):
        return network.decode(codes)


def whole(report: Report, source: Any, theirs: Any, options: argparse.Namespace) -> None:
    """Measure codecs, from samples to codes and back, against upstream clip by clip."""
    stage = report.stage
    waves = speech(options.speech, options.seconds / 3600)
    seconds = sum(len(wave) for wave in waves) / RATE
    written, fast = stage.codec(source, "off"), stage.codec(source, "on")
    halves = {"off": stage.codec(source, "off", "bf16"), "on": stage.codec(source, "on", "bf16")}
    codes = written.encode(waves)
    tensors = [
        [torch.from_numpy(level)[None].long().to(stage.device) for level in item.levels]
        for item in codes
    ]
    named = {"off": "codec, compile=off", "on": "codec, compile=on"}
    decode_upstream = {UPSTREAM: lambda: [theirs.decode(item) for item in tensors]}
    runs: dict[str, dict[str, Callable[[], Any]]] = {
        "encode, fp32": {
            UPSTREAM: lambda: [theirs.encode(padded(wave).to(stage.device)) for wave in waves],
            named["off"]: lambda: written.encode(waves),
            named["on"]: lambda: fast.encode(waves),
        },
        "decode, fp32": decode_upstream
        | {
            named["off"]: lambda: written.decode(codes),
            named["on"]: lambda: fast.decode(codes),
        },
        "decode, bf16": decode_upstream
        | {
            named["off"]: lambda: halves["off"].decode(codes),
            named["on"]: lambda: halves["on"].decode(codes),
        },
    }
    for what, peers in runs.items():
        for run in peers.values():
            run()
        finished = {name: stage.finished(run) for name, run in peers.items()}
        report.add(what, UPSTREAM, in_turns(finished, options.rounds), seconds)
    piece = codes[: max(1, min(6, len(codes)))]
    exact = written.decode(piece)
    for name, half in halves.items():
        far = max(
            log_mel_distance(a, b, RATE) for a, b in zip(exact, half.decode(piece), strict=True)
        )
        report.note(f"bf16, {named[name]}: log-mel distance from fp32 {far:.4f} at most")
    hour = speech(options.speech, options.hours)
    kind = "recordings" if options.speech else "synthetic speech"
    expected = encode_upstream(theirs, hour, stage.device)
    on_cpu = Stage(torch.device("cpu"), stage.config).codec(source, "auto").encode(hour[:6])
    for name, codec in (("off", written), ("on", fast)):
        own = codec.encode(hour)
        wrong, total = differing(own, expected)
        report.note(
            f"{named[name]}: codes that differ from upstream's on this GPU, {options.hours:g} h of "
            f"{kind}: {wrong} of {total} ({wrong / total:.5%}; bar 0.01%)"
        )
        wrong, total = differing(own[:6], on_cpu)
        report.note(
            f"{named[name]}: from those of this machine's CPU, 1 minute: {wrong} of {total}"
        )
    report.save()
    if "streams" not in options.skip:
        many_streams(report, written, halves["off"])


def many_streams(report: Report, encodes: Codec, decodes: Codec) -> None:
    """Measure streams, whose layers a GPU runs as they are written."""
    sizes, steps = ((64, 512, 2048), 40) if report.stage.real else ((2,), 2)
    frame = report.stage.config.pad_multiple / RATE
    for kind, codec in (("decode", decodes), ("encode", encodes)):
        for count in sizes:
            middle, late = streams(codec, kind, count, steps)
            report.note(
                f"{count} streams that {kind}, {codec.precision if kind == 'decode' else 'fp32'}: "
                f"a step of {1000 * frame:.0f} ms takes {1000 * middle:.1f} ms, p99 "
                f"{1000 * late:.1f} ms (bar: 2,000 streams, 50 ms); real-time streams: "
                f"{count * frame / middle:.0f}"
            )
    report.save()


def profiled(report: Report, model: SNAC, theirs: Any, size: tuple[int, int]) -> None:
    """Write where the time of one batch goes: in rows, then in the layers as written."""
    stage, (count, frames) = report.stage, size
    batch = torch.zeros(count, 1, frames * stage.config.frame_samples, device=stage.device)
    codes, said = theirs.encode(batch), []
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if stage.real else [])]
    for name in (ROWS, LAYERS):
        network = networks(stage, model, torch.bfloat16)[name]
        for direction in ("encode", "decode"):
            run = (
                functools.partial(network.encode, batch)
                if direction == "encode"
                else functools.partial(_decode, stage, network, codes, True)
            )
            run()
            with profile(activities=activities) as found:
                stage.finished(run)()
            by = "device_time_total" if stage.real else "cpu_time_total"
            table = found.key_averages().table(sort_by=by, row_limit=20)
            said.append(f"{direction}, {name}\n{table}")
    text = "\n\n".join(said)
    if stage.real:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "gpu-profile.txt").write_text(text)
        report.note(f"memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")
    print(text)
    report.save()


def compiled(report: Report, theirs: Any, model: SNAC, size: tuple[int, int], rounds: int) -> None:
    """Measure torch.compile of the layers, last, as it takes a minute or two."""
    stage, (count, frames) = report.stage, size
    samples = frames * stage.config.frame_samples
    batch = torch.zeros(count, 1, samples, device=stage.device)
    codes = theirs.encode(batch)
    encode, decode = torch.compile(model.encode), torch.compile(model.decode)

    def half() -> Any:
        with torch.autocast(stage.device.type, torch.bfloat16):
            return decode(codes)

    pairs: dict[str, dict[str, Callable[[], Any]]] = {
        "encode, fp32": {BATCHED: lambda: theirs.encode(batch), COMPILED: lambda: encode(batch)},
        "decode, bf16": {BATCHED: lambda: theirs.decode(codes), COMPILED: half},
    }
    for kind, pair in pairs.items():
        runs = {name: stage.finished(run) for name, run in pair.items()}
        what = f"{kind}, {count} of {samples / RATE:.1f} s on the GPU"
        report.add(what, BATCHED, in_turns(runs, rounds), count * samples / RATE)
    report.save()


def main() -> None:
    """Measure, print and write; ends with 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--speech", type=Path, help="folder of recordings (default: synthetic)")
    parser.add_argument("--hours", type=float, default=1.0, help="audio whose codes are compared")
    parser.add_argument("--seconds", type=float, default=1280.0, help="audio of a measured run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", nargs="*", choices=["compiled", "streams"], default=[])
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, tiny")
    options = parser.parse_args()
    if options.rehearse:
        stage, sizes, options.rounds = Stage.rehearsal(), [(1, 1), (2, 2)], 1
        options.hours = options.seconds = 1e-3
    elif torch.cuda.is_available():
        stage = Stage(torch.device("cuda"), PRESETS["snac_24khz"])
        # A second of one clip, and what a codec computes at once.
        sizes = [(1, 12), (32, 47)]
    else:
        print("no CUDA device: nothing was measured", file=sys.stderr)
        raise SystemExit(2)
    started = time.perf_counter()
    # As the engine does: exactness is what is compared, so both without TF32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    source, report = upstream(stage.config), Report(stage)
    theirs, model = source.to(stage.device), stage.codec(source, "off").model
    with torch.inference_mode():
        one_batch(report, theirs, model, sizes, options.rounds)
        whole(report, source, theirs, options)
        profiled(report, model, theirs, sizes[-1])
        if "compiled" not in options.skip and stage.real:
            compiled(report, theirs, model, sizes[-1], options.rounds)
    print(f"\n{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
