"""The report on a tokenized corpus: ``tokens_report.json`` and an HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from snac_core.utils import atomic_files
from snac_core.utils.commands import progress
from trainer.errors import TrainerError
from trainer.reporting import page, plots
from trainer.tokens.corpus import Corpus
from trainer.tokens.statistics import MOST_RUN, TokenStatistics

RESULTS, REPORT = "tokens_report.json", "tokens_report.html"
TOP = 20


def measure(folder: Path, codebook_size: int = 4096, top: int = TOP) -> dict[str, Any]:
    """Count the codes of every recording in ``folder``, a batch at a time.

    Parameters
    ----------
    folder
        Parquet shards as ``snac-bulk`` writes them, or npz codes as ``snac-codec encode`` does.
    codebook_size
        Entries in each codebook.
    top
        How many n-grams to list.

    Returns
    -------
    dict
        JSON-ready; docs/evaluation.md says what is in it.

    Raises
    ------
    TrainerError
        When there are no codes, they are of several token spaces, or cannot be read.
    """
    if codebook_size < 1 or top < 0:
        raise TrainerError(
            f"the codebook size must be above 0 and top 0 or more, not {codebook_size} and {top}"
        )
    corpus = Corpus(folder, codebook_size)
    statistics: TokenStatistics | None = None
    for path in progress(corpus.files, desc="counting codes", unit="file"):
        for batch in corpus.batches(path):
            if statistics is None:
                assert corpus.per_frame is not None
                statistics = TokenStatistics(corpus.per_frame, codebook_size)
            statistics.add(batch)
    if statistics is None:
        first = f", the first because {corpus.listed[0]['reason']}" if corpus.listed else ""
        raise TrainerError(
            f"none of the {corpus.skipped} recordings under {folder} can be used{first}"
        )
    return {
        "corpus": str(folder),
        "token_space": corpus.token_space,
        **statistics.to_dict(top),
        "skipped": corpus.skipped,
        "unusable": corpus.listed,
    }


def to_markdown(statistics: dict[str, Any]) -> str:
    """Return a table with a row for each level."""
    lines = [
        "| level | codes | used | dead | perplexity | entropy (bit) | Gini | mean run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for place, level in enumerate(statistics["levels"]):
        lines.append(
            f"| {place} | {level['codes']} | {level['used']} | {level['dead']} "
            f"| {level['perplexity']:.1f} | {level['entropy_bits']:.2f} | {level['gini']:.3f} "
            f"| {level['runs']['mean']:.3f} |"
        )
    return "\n".join(lines)


def write(statistics: dict[str, Any], output_dir: Path) -> Path:
    """Write ``tokens_report.json`` and ``tokens_report.html``, whose path is returned."""
    atomic_files.make_folder(output_dir)
    text = json.dumps(statistics, allow_nan=False) + "\n"
    atomic_files.replace(output_dir / RESULTS, text.encode())
    counts = [np.array(level["frequency"], np.int64) for level in statistics["levels"]]
    runs = []
    for level in statistics["levels"]:
        lengths = np.zeros(MOST_RUN, np.int64)
        for length, times in level["runs"]["by_length"].items():
            lengths[int(length) - 1] = times
        runs.append(lengths)
    return page.write(
        output_dir / REPORT,
        "tokens_report.html",
        report=statistics,
        rank_frequency=plots.rank_frequency({"all levels": counts}),
        lorenz=plots.lorenz(counts),
        run_lengths=plots.run_lengths(runs),
        code_maps=plots.code_maps(counts),
    )
