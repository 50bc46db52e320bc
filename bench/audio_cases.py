"""Print what becomes of each recording in a folder: its samples at 24 kHz, or the refusal.

    python bench/audio_cases.py FOLDER [--compare OTHER.tsv] [--save THIS.tsv]

``--save`` keeps the answers, and ``--compare`` adds those of an earlier run as a column.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

from snac_core import audio
from snac_core.errors import AudioError

RATE = 24000


def outcome(path: Path) -> str:
    """Return the number of samples and their RMS, or why the recording is refused."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            samples = audio.read(path.read_bytes(), RATE)
        except AudioError as error:
            return f"refused: {error}"
    level = 20 * np.log10(max(float(np.sqrt(np.mean(np.square(samples)))), 1e-9))
    notes = "".join(f"; warning: {warning.message}" for warning in said)
    return f"{len(samples):,} samples, {level:.1f} dBFS{notes}"


def main() -> None:
    """Read every file and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.iterdir() if path.suffix != ".md")
    found = {path.name: outcome(path) for path in paths}
    if options.save:
        lines = [f"{name}\t{answer}\n" for name, answer in found.items()]
        options.save.write_text("".join(lines))
    before = {}
    if options.compare:
        pairs = (line.split("\t") for line in options.compare.read_text().splitlines())
        before = {pair[0]: pair[1] for pair in pairs}
    columns = ["recording", *(["before"] if before else []), "answer"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, answer in found.items():
        cells = [name, *([before.get(name, "-")] if before else []), answer]
        print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")


if __name__ == "__main__":
    main()
