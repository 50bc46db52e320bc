"""The report of an evaluation: ``report.html``, self-contained, with plots and audio."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from snac_core import audio
from trainer.evaluation.evaluate import Evaluation
from trainer.evaluation.models import ALONE, BASE, FINETUNED, ROLES
from trainer.evaluation.outputs import ORIGINAL
from trainer.evaluation.speech_quality import MEASURES
from trainer.reporting import curves, page, plots

REPORT = "report.html"

CLIP_SECONDS = 10.0
"""Of a sample, so much from its start on is on the page."""

AUDIO_BYTES = 12 * 2**20
"""FLAC that the page holds at most, before its form as text makes it a third larger."""

MOST_UNREADABLE = 200

NAMES = {ORIGINAL: "original", BASE: "base", FINETUNED: "fine-tuned", ALONE: "model"}


class Figure(NamedTuple):
    """A row of the summary."""

    name: str
    label: str
    digits: int
    higher_is_better: bool


def write(evaluation: Evaluation, output_dir: Path, run: Path | None = None) -> Path:
    """Write ``report.html`` into ``output_dir`` and return its path.

    Parameters
    ----------
    evaluation
        What `trainer.evaluation.evaluate.evaluate` returned, having written to the same folder.
    output_dir
        Where ``samples/`` is.
    run
        A training run's folder, whose loss curves are shown.

    Raises
    ------
    TrainerError
        When the run's metrics cannot be read.
    AudioError, OSError
        When a sample cannot be read back.
    """
    results = evaluation.results
    roles = [role for role in ROLES if role in results]
    figures = _figures(results)
    samples = _samples(results, roles, figures, output_dir)
    return page.write(
        output_dir / REPORT,
        "report.html",
        results=results,
        roles=roles,
        names=NAMES,
        figures=figures,
        labels={measure.name: measure.label for measure in MEASURES},
        terms=[name for name in results["terms"] if name != "loss"],
        levels=max(len(results[role]["levels"]) for role in roles),
        curves=plots.loss_curves(curves.read(run)) if run is not None else None,
        code_use=plots.rank_frequency({NAMES[role]: evaluation.counts[role] for role in roles}),
        worst=_worst(results, figures),
        samples=samples,
        blind=len(roles) > 1,
        silent=sum(not sample["signals"][ORIGINAL]["flac"] for sample in samples),
        cut=any(sample["cut"] for sample in samples),
        clip_seconds=f"{CLIP_SECONDS:g}",
        unreadable=results["unreadable"][:MOST_UNREADABLE],
    )


def _figures(results: dict[str, Any]) -> list[Figure]:
    terms = sorted(results["terms"], key=lambda name: name != "loss")
    rows = [Figure(name, f"{name} term" if name != "loss" else name, 4, False) for name in terms]
    return rows + [
        Figure(one.name, one.label, one.digits, one.higher_is_better)
        for one in MEASURES
        if one.name in results["measures"]
    ]


def _worst(results: dict[str, Any], figures: list[Figure]) -> list[dict[str, Any]]:
    """Return, for each measure, the recordings that came out worst and those that lost most."""
    found = results["worst"]
    return [
        {"figure": figure, "value": kinds.get("value", []), "change": kinds.get("change", [])}
        for figure in figures
        if (kinds := found.get(figure.name))
    ]


def _order(sample: dict[str, Any]) -> list[str]:
    """Return the order of the two models' reconstructions, drawn so that it cannot be guessed."""
    made = [name for name in sample["files"] if name != ORIGINAL]
    drawn = hashlib.sha256(f"{sample['path']} {sample['number']}".encode()).digest()[0] % 2
    return made[::-1] if drawn else made


def _samples(
    results: dict[str, Any], roles: list[str], figures: list[Figure], folder: Path
) -> list[dict[str, Any]]:
    """Return what the page shows of each sample; the audio of the first, as many as fit."""
    rate = results[roles[0]]["sample_rate"]
    longest = round(CLIP_SECONDS * rate)
    measured = [figure for figure in figures if figure.name in results["measures"]]
    shown, room = [], AUDIO_BYTES
    for sample in results["samples"]:
        signals = {name: audio.read(folder / file, rate) for name, file in sample["files"].items()}
        cut = len(signals[ORIGINAL]) > longest
        signals = {name: samples[:longest] for name, samples in signals.items()}
        flac = {name: page.flac(samples, rate) for name, samples in signals.items()}
        room -= sum(map(len, flac.values()))
        values = sample["figures"]
        shown.append(
            {
                **sample,
                "cut": cut,
                "order": _order(sample),
                "figure": plots.spectrograms(
                    {NAMES[name]: samples for name, samples in signals.items()}, rate
                ),
                "signals": {
                    name: {
                        "flac": flac[name] if room >= 0 else b"",
                        "figures": [
                            (figure, values[f"{name}_{figure.name}"])
                            for figure in measured
                            if f"{name}_{figure.name}" in values
                        ],
                    }
                    for name in signals
                },
            }
        )
    return shown
