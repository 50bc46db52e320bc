"""The engine on a CPU against the published package, same weights, same clips, in turns.

    python bench/cpu.py [--rounds 2] [--threads N] [--clock wall] [--skip compiled growth]

Writes ``bench/results/cpu.json``, ``cpu.md`` and ``cpu.png``. On a busy machine, ``--threads 1
--clock cpu`` counts this process's own time alone.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measuring import (
    CLOCKS,
    CONFIG,
    RATE,
    RESULTS,
    Row,
    clips,
    codec,
    faster,
    in_turns,
    padded,
    save,
    upstream,
)
from onnx_peer import VERSION as ONNX_VERSION
from onnx_peer import exported
from torch.utils.flop_counter import FlopCounterMode

import snac_core
from snac_core.codec import Codec
from snac_core.types import Samples

EAGER, WRITTEN = "upstream", "our layers as written"
COMPILED, ONNX = "upstream + torch.compile", "upstream in ONNX Runtime"
BARS = {"encode": (2.0, 4.5), "decode": (2.0, 3.7)}


class Peers:
    """The same weights, several times."""

    def __init__(self) -> None:
        self.theirs = upstream()
        self.ours = codec(self.theirs, "on")
        self.written = codec(self.theirs, "off")
        self.compiled = upstream()

    def compile(self) -> None:
        """Compile the convolutional parts, which are what takes time."""
        self.compiled.encoder.compile()
        self.compiled.decoder.compile()

    def in_onnx(self, kind: str, wave: Samples) -> Callable[[], Any]:
        """Return, for one clip, what ONNX Runtime does."""
        tensor = padded(wave)
        given = [tensor] if kind == "encode" else self.theirs.encode(tensor)
        return exported(self.theirs, kind, *(item.clone() for item in given))

    def runs(self, kind: str, wave: Samples) -> dict[str, Callable[[], Any]]:
        """Return, for one clip, what each does."""
        tensor = padded(wave)
        codes = self.theirs.encode(tensor)
        (own,) = self.ours.encode([wave])
        if kind == "encode":
            return {
                EAGER: lambda: self.theirs.encode(tensor),
                COMPILED: lambda: self.compiled.encode(tensor),
                WRITTEN: lambda: self.written.encode([wave]),
                "ours": lambda: self.ours.encode([wave]),
            }
        return {
            EAGER: lambda: self.theirs.decode(codes),
            COMPILED: lambda: self.compiled.decode(codes),
            WRITTEN: lambda: self.written.decode([own]),
            "ours": lambda: self.ours.decode([own]),
        }


def matrix_rate(clock: str) -> Callable[[], float]:
    """Return what measures GFLOP/s of a large fp32 product."""
    a = torch.randn(2048, 2048)
    out = torch.empty_like(a)

    def measure() -> float:
        read = CLOCKS[clock]
        started = read()
        torch.mm(a, a, out=out)
        return 2 * 2048**3 / (read() - started) / 1e9

    return measure


def work(ours: Codec, kind: str) -> float:
    """Return GFLOP of the products in one second of audio, counted."""
    (wave,) = clips(1, 8.0, 8.0)
    (codes,) = ours.encode([wave])
    levels = [torch.from_numpy(level)[None].long() for level in codes.levels]
    with FlopCounterMode(display=False) as counter:
        _ = ours.model.encode(padded(wave)) if kind == "encode" else ours.model.decode(levels)
    return float(counter.get_total_flops() * RATE / padded(wave).shape[-1] / 1e9)


def single_clips(
    peers: Peers, rounds: int, clock: str, compiled: bool
) -> tuple[list[Row], list[str]]:
    """Measure clips of one length."""
    rows, notes, rate = [], [], matrix_rate(clock)
    for kind, bars in BARS.items():
        for seconds, bar in zip((1.0, 8.0), bars, strict=True):
            (wave,) = clips(1, seconds, seconds)
            runs = peers.runs(kind, wave)
            # To compile or to export takes a minute: for one length each.
            if not compiled or seconds != 8.0:
                del runs[COMPILED]
            else:
                runs[ONNX] = peers.in_onnx(kind, wave)
            rates: list[float] = []
            runs["products"] = functools.partial(_keep, rates, rate)
            times = in_turns(runs, rounds, clock)
            what = f"{kind}, one clip of {seconds:g} s"
            rows.append(faster(what, EAGER, times, seconds, bar))
            for peer in (COMPILED, ONNX, WRITTEN):
                rows += [faster(what, peer, times, seconds)] if peer in times else []
            share = work(peers.ours, kind) * rows[-1].ours / statistics.median(rates)
            notes.append(
                f"{what}: {share:.0%} of {statistics.median(rates):.0f} GFLOP/s, what a product of "
                "2048 x 2048 reaches in the same turns"
            )
    return rows, notes


def mixed_clips(peers: Peers, count: int, clock: str) -> tuple[list[Row], list[str]]:
    """Measure many clips of mixed lengths, each in turns, and compare their codes."""
    waves, read = clips(count, 1.0, 10.0), CLOCKS[clock]
    audio = sum(len(wave) for wave in waves) / RATE
    seconds: dict[tuple[str, str], list[float]] = {}
    wrong = total = 0

    def timed(kind: str, name: str, run: Callable[[Any], Any], argument: object) -> Any:
        started = read()
        result = run(argument)
        seconds.setdefault((kind, name), []).append(read() - started)
        return result

    for wave in waves:
        theirs = timed("encode", EAGER, peers.theirs.encode, padded(wave))
        (own,) = timed("encode", "ours", peers.ours.encode, [wave])
        timed("decode", EAGER, peers.theirs.decode, theirs)
        timed("decode", "ours", peers.ours.decode, [own])
        wrong += sum(
            int((a[0].numpy() != b).sum()) for a, b in zip(theirs, own.levels, strict=True)
        )
        total += sum(level.size for level in own.levels)
    rows = []
    for kind, (_, bar) in BARS.items():
        peer, ours = seconds[kind, EAGER], seconds[kind, "ours"]
        ratios = sorted(a / b for a, b in zip(peer, ours, strict=True))
        spread = (ratios[0], sum(peer) / sum(ours), ratios[-1])
        what, speeds = f"{kind}, {count} clips of 1-10 s", (audio / sum(ours), audio / sum(peer))
        rows.append(Row(what, EAGER, *speeds, "x real time", spread, bar))
    return rows, [f"codes that differ from upstream's: {wrong} of {total}"]


Curve = list[tuple[float, float]]
Grown = dict[str, dict[str, Curve]]


def growth(peers: Peers, clock: str, longest: float) -> Grown:
    """Return (size, rate) in x real time for each curve of each plot.

    Lengths of a clip in s: the published package takes a clip at once, whose memory grows with
    it, so it gets none longer than 16 s; the longest are encoded by the small starter model. Then
    clips of 2 s.
    """
    read = CLOCKS[clock]

    def rate(run: Callable[[], Any], audio: float) -> float:
        started = read()
        run()
        return audio / (read() - started)

    small = snac_core.load("starter", device="cpu", compile="on")
    small.encode(clips(1, 1.0, 1.0))
    lengths: dict[str, Curve] = {"ours": [], EAGER: [], "ours, starter model": []}
    for seconds in sorted({1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 128.0, 600.0, longest}):
        # A minute, over and over: making an hour of it takes gigabytes.
        (some,) = clips(1, min(seconds, 60.0), min(seconds, 60.0))
        wave = np.resize(some, round(seconds * RATE))
        runs: dict[str, Callable[[], Any]] = {
            "ours, starter model": functools.partial(small.encode, [wave])
        }
        if seconds <= 128.0:
            runs["ours"] = functools.partial(peers.ours.encode, [wave])
        if seconds <= 16.0:
            runs[EAGER] = functools.partial(peers.theirs.encode, padded(wave))
        for name, run in runs.items():
            lengths[name].append((seconds, rate(run, seconds)))
    batches: dict[str, Curve] = {"ours": [], EAGER: []}
    for count in (1, 2, 4, 8, 16):
        waves = clips(count, 2.0, 2.0)
        batch = torch.cat([padded(wave) for wave in waves])
        for name, run in {
            "ours": functools.partial(peers.ours.encode, waves),
            EAGER: functools.partial(peers.theirs.encode, batch),
        }.items():
            batches[name].append((float(count), rate(run, 2.0 * count)))
    return {"seconds of a clip": lengths, "clips of 2 s in a batch": batches}


def _keep(values: list[float], measure: Callable[[], float]) -> None:
    values.append(measure())


def plot(grown: Grown) -> None:
    """Write ``results/cpu.png``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, (label, curves) in zip(figure.subplots(1, 2), grown.items(), strict=True):
        for name, points in curves.items():
            axes.plot(*zip(*points, strict=True), "s--" if name == EAGER else "o-", label=name)
        axes.set(
            xscale="log", yscale="log", xlabel=label, ylabel="encoding, x real time", ylim=(1, None)
        )
        axes.legend()
    figure.savefig(RESULTS / "cpu.png", dpi=110)


def build_seconds() -> list[str]:
    """Return how long a process takes to have the kernels, without and with a build."""
    said = []
    with tempfile.TemporaryDirectory() as cache:
        for what in ("building and loading", "loading"):
            started = time.perf_counter()
            code = "from snac_core.kernels.cpu import kernels; kernels('on')"
            environment = {**os.environ, "XDG_CACHE_HOME": cache}
            subprocess.run([sys.executable, "-c", code], env=environment, check=True)
            elapsed = time.perf_counter() - started
            said.append(
                f"{what} the kernels, in a process that starts: {elapsed:.1f} s of wall time"
            )
    return said


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--longest", type=float, default=3600.0, help="s, of how cost grows")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--skip", nargs="*", choices=["compiled", "mixed", "growth"], default=[])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peers = Peers()
    if "compiled" not in options.skip:
        peers.compile()
    with torch.inference_mode():
        rows, notes = single_clips(
            peers, options.rounds, options.clock, "compiled" not in options.skip
        )
        if "mixed" not in options.skip:
            more_rows, more_notes = mixed_clips(peers, options.clips, options.clock)
            rows, notes = rows + more_rows, notes + more_notes
        grown = {} if "growth" in options.skip else growth(peers, options.clock, options.longest)
    notes += build_seconds()
    if "compiled" not in options.skip:
        notes.append(f"ONNX Runtime {ONNX_VERSION}, a session for the one length")
    notes.append(f"clock: {options.clock} time; shape of the model: {CONFIG.sampling_rate} Hz")
    save("cpu", rows, notes, {"clock": options.clock, "growth": grown})
    if grown:
        plot(grown)


if __name__ == "__main__":
    main()
