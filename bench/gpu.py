"""The engine on a CUDA GPU against the published package, same weights, same clips, in turns.

    python bench/gpu.py [--speech DIR] [--hours 1] [--rounds 3]

Encoding is fp32 with TF32 off; decoding is fp32 and bf16, the latter with its log-mel difference
from fp32. Writes ``bench/results/gpu.json``, ``gpu.md`` and ``gpu-profile.txt``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpu import work
from measuring import (
    CONFIG,
    RATE,
    RESULTS,
    Row,
    Samples,
    clips,
    codec,
    faster,
    in_turns,
    padded,
    save,
    upstream,
)
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from snac_core import audio
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.quality import log_mel_distance
from snac_core.weights import build

UPSTREAM = "upstream, clip by clip"


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


def finished(run: Callable[[], Any]) -> Callable[[], None]:
    """Return ``run``, until the GPU has done what it queued."""

    def whole() -> None:
        run()
        torch.cuda.synchronize()

    return whole


def rates(device: str) -> tuple[float, float]:
    """Return what the GPU reaches: GFLOP/s of a large fp32 product, GB/s of a large copy."""
    a = torch.randn(8192, 8192, device=device)
    big = torch.empty(2**28, device=device)
    out, other = torch.empty_like(a), torch.empty_like(big)
    runs = {
        "product": finished(lambda: torch.mm(a, a, out=out)),
        "copy": finished(lambda: other.copy_(big)),
    }
    times = in_turns(runs, 5)
    return 2 * 8192**3 / min(times["product"]) / 1e9, 8 * 2**28 / min(times["copy"]) / 1e9


def on_gpu(wave: Samples, device: str) -> Tensor:
    """Return whole frames, Tensor[1 x 1 x T]."""
    return padded(wave).to(device)


def differing(ours: list[Codes], theirs: list[Codes]) -> tuple[int, int]:
    """Return how many codes differ, of how many."""
    pairs = [
        (a, b)
        for x, y in zip(ours, theirs, strict=True)
        for a, b in zip(x.levels, y.levels, strict=True)
    ]
    return sum(int((a != b).sum()) for a, b in pairs), sum(a.size for a, _ in pairs)


def encode_upstream(model: Any, waves: list[Samples], device: str) -> list[Codes]:
    """Return the published package's codes of each clip."""
    made = []
    for wave in waves:
        levels = model.encode(on_gpu(wave, device))
        arrays = tuple(level[0].cpu().numpy().astype(np.int32) for level in levels)
        made.append(Codes(arrays, len(wave), RATE))
    return made


def main() -> None:
    """Measure, print and write; ends with 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--speech", type=Path, help="folder of recordings (default: synthetic)")
    parser.add_argument("--hours", type=float, default=1.0, help="audio whose codes are compared")
    parser.add_argument("--seconds", type=float, default=1280.0, help="audio of a measured run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured", file=sys.stderr)
        raise SystemExit(2)
    started, device = time.perf_counter(), "cuda"
    # As the engine does: exactness is what is compared, so both without TF32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    report(options, device)
    print(f"\n{time.perf_counter() - started:.0f} s in all")


def report(options: argparse.Namespace, device: str) -> None:
    """Measure and write."""
    source = upstream()
    ours, half = codec(source, device=device), _half(source, device)
    theirs, on_cpu = source.to(device), codec(upstream())
    with torch.inference_mode():
        rows, notes, more = measured(options, device, ours, half, theirs, on_cpu)
    save("gpu", rows, notes, more)


def measured(
    options: argparse.Namespace, device: str, ours: Codec, half: Codec, theirs: Any, on_cpu: Codec
) -> tuple[list[Row], list[str], dict[str, float]]:
    """Return rows, notes and figures."""
    waves = speech(options.speech, options.seconds / 3600)
    seconds = sum(len(wave) for wave in waves) / RATE
    codes = ours.encode(waves)
    tensors = [
        [torch.from_numpy(level)[None].long().to(device) for level in item.levels] for item in codes
    ]
    runs: dict[str, dict[str, Callable[[], Any]]] = {
        "encode, fp32": {
            UPSTREAM: lambda: [theirs.encode(on_gpu(wave, device)) for wave in waves],
            "ours": lambda: ours.encode(waves),
        },
        "decode, fp32": {
            UPSTREAM: lambda: [theirs.decode(item) for item in tensors],
            "ours": lambda: ours.decode(codes),
        },
        "decode, bf16": {
            UPSTREAM: lambda: [theirs.decode(item) for item in tensors],
            "ours": lambda: half.decode(codes),
        },
    }
    bars = {"encode, fp32": 5.0, "decode, bf16": 8.0}
    rows: list[Row] = []
    for what, pair in runs.items():
        times = in_turns({name: finished(run) for name, run in pair.items()}, options.rounds)
        rows.append(faster(what, UPSTREAM, times, seconds, bars.get(what)))
    matrix, memory = rates(device)
    notes = [f"measured here: {matrix:.0f} GFLOP/s of fp32 products, {memory:.0f} GB/s of copies"]
    for row, kind in zip(rows, ("encode", "decode"), strict=False):
        share = work(on_cpu, kind) * row.ours / matrix
        notes.append(f"{row.what}: {share:.0%} of the matrix rate")
    piece = codes[: max(1, min(6, len(codes)))]
    distances = [
        log_mel_distance(a, b, RATE)
        for a, b in zip(ours.decode(piece), half.decode(piece), strict=True)
    ]
    notes.append(f"bf16 decoding: log-mel distance from fp32 {max(distances):.4f} at most")
    notes += _codes_notes(options, ours, theirs, on_cpu, device)
    notes.append(f"memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")
    _profile(ours, half, waves[:13], codes[:13])
    return rows, notes, {"matrix_gflops": matrix, "memory_gb_per_s": memory}


def _half(source: Any, device: str) -> Codec:
    return Codec(
        build(CONFIG, source.state_dict()),
        version="random",
        token_space="random",
        device=device,
        precision="bf16",
    )


def _codes_notes(
    options: argparse.Namespace, ours: Codec, theirs: Any, on_cpu: Codec, device: str
) -> list[str]:
    waves = speech(options.speech, options.hours)
    kind = "recordings" if options.speech else "synthetic speech"
    wrong, total = differing(ours.encode(waves), encode_upstream(theirs, waves, device))
    minute = waves[:6]
    other, of = differing(ours.encode(minute), on_cpu.encode(minute))
    return [
        f"codes that differ from upstream's on this GPU, {options.hours:g} h of {kind}: {wrong} of "
        f"{total} ({wrong / total:.5%}; bar 0.01%)",
        f"codes that differ from those of this machine's CPU, 1 minute: {other} of {of}",
    ]


def _profile(ours: Codec, half: Codec, waves: list[Samples], codes: list[Codes]) -> None:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        ours.encode(waves)
        half.decode(codes)
        torch.cuda.synchronize()
    text = found.key_averages().table(sort_by="device_time_total", row_limit=25)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "gpu-profile.txt").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
