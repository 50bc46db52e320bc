"""What the benchmarks share: models of the same weights, turns on one clock, results on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import snac
import torch
from machine import describe
from torch import Tensor

from snac_core.codec import Codec
from snac_core.config import PRESETS, SnacConfig
from snac_core.store.weights import build
from snac_core.types import Compile, Samples

RESULTS = Path(__file__).with_name("results")
CONFIG = PRESETS["snac_24khz"]
RATE = CONFIG.sampling_rate

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def upstream(config: SnacConfig = CONFIG) -> snac.SNAC:
    """Return the published package's model with random weights, the same each time."""
    torch.manual_seed(0)
    return snac.SNAC(**config.to_dict()).eval().requires_grad_(False)


def codec(model: snac.SNAC, compile: Compile = "auto", device: str = "cpu") -> Codec:
    """Return our codec with the weights of ``model``."""
    own = build(CONFIG, model.state_dict())
    return Codec(own, version="random", token_space="random", device=device, compile=compile)


def clips(count: int, shortest: float, longest: float) -> list[Samples]:
    """Return speech-like clips whose lengths, in seconds, are spread evenly between two."""
    random = np.random.default_rng(0)
    made = []
    for seconds in np.linspace(shortest, longest, count):
        at = np.arange(round(seconds * RATE)) / RATE
        pitch = random.uniform(80, 250) * (1 + 0.1 * np.sin(2 * np.pi * 0.5 * at))
        voice = sum(np.sin(2 * np.pi * k * pitch * at) / k for k in range(1, 6))
        loudness = 0.1 * (1 + np.sin(2 * np.pi * 3 * at))
        made.append((loudness * voice + 0.01 * random.standard_normal(len(at))).astype(np.float32))
    return [made[place] for place in random.permutation(count)]


def padded(wave: Samples) -> Tensor:
    """Return Tensor[1 x 1 x T] of whole frames."""
    length = CONFIG.padded_samples(len(wave))
    return torch.from_numpy(np.pad(wave, (0, length - len(wave))))[None, None]


def in_turns(
    runs: Mapping[str, Callable[[], Any]], rounds: int, clock: str = "wall"
) -> dict[str, list[float]]:
    """Return seconds of each run, ``rounds`` times in turns, after one that is not counted."""
    read = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = read()
            run()
            if turn:
                seconds[name].append(read() - started)
    return seconds


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: ours, beside what it is compared with.

    Parameters
    ----------
    what
        What was measured.
    ours, peer
        Medians, in ``unit``.
    unit
        Such as ``x real time``.
    ratio
        Of ours to the peer, turn by turn: lowest, median, highest.
    bar
        The ratio that is wanted; None where there is none.
    """

    what: str
    peer_name: str
    ours: float
    peer: float
    unit: str
    ratio: tuple[float, float, float]
    bar: float | None = None


def faster(
    what: str,
    peer_name: str,
    seconds: Mapping[str, list[float]],
    audio: float,
    bar: float | None = None,
) -> Row:
    """Return the row of ``ours`` against ``peer_name`` for so many seconds of audio."""
    ours, peer = seconds["ours"], seconds[peer_name]
    ratios = [theirs / mine for theirs, mine in zip(peer, ours, strict=True)]
    return Row(
        what,
        peer_name,
        audio / statistics.median(ours),
        audio / statistics.median(peer),
        "x real time",
        (min(ratios), statistics.median(ratios), max(ratios)),
        bar,
    )


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown."""
    lines = ["| | ours | peer | ratio (lowest - highest) | bar |", "|---|---|---|---|---|"]
    for row in rows:
        low, middle, high = row.ratio
        bar = "" if row.bar is None else f">= {row.bar:g}{'' if middle >= row.bar else ' MISSED'}"
        lines.append(
            f"| {row.what} | {row.ours:.1f} {row.unit} | {row.peer_name}: {row.peer:.1f} "
            f"| {middle:.2f} ({low:.2f} - {high:.2f}) | {bar} |"
        )
    return "\n".join(lines)


def save(name: str, rows: list[Row], notes: list[str], more: Mapping[str, Any]) -> None:
    """Write ``results/<name>.json`` and ``.md``, and print the latter."""
    RESULTS.mkdir(exist_ok=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "snac": "1.2.1"}
    head = {
        "machine": describe(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
    }
    content = {**head, "rows": [dataclasses.asdict(row) for row in rows], "notes": notes, **more}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    said = (
        f"{head['machine']}; {head['threads']} threads; load average {head['load']}; "
        + ", ".join(f"{key} {value}" for key, value in versions.items())
    )
    text = "\n\n".join([f"## {name}", said, table(rows), "\n".join(f"- {note}" for note in notes)])
    (RESULTS / f"{name}.md").write_text(text + "\n\n")
    print(text)
