"""Measures how well models reconstruct recordings, and keeps samples to listen to."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.errors import AudioError
from snac_core.types import Samples
from snac_core.utils import atomic_files
from snac_core.utils.commands import progress
from trainer.config import TrainConfig, curriculum
from trainer.data.recordings import read_part
from trainer.errors import TrainerError
from trainer.evaluation import selection, speech_quality
from trainer.evaluation.aggregator import Aggregator
from trainer.evaluation.fixed_loss import default_config, fixed_losses
from trainer.evaluation.groups import ALL
from trainer.evaluation.models import ROLES, Models
from trainer.evaluation.outputs import KeptSamples, PerFile
from trainer.evaluation.selection import SampleChoice, Taken, Unreadable
from trainer.evaluation.speech_quality import MEASURES, Measure, Pair, measured
from trainer.model.code_use import Counts
from trainer.runtime.workers import Workers

log = logging.getLogger(__name__)

LONGEST_SECONDS = 30.0
"""Of a recording, so much from its start on is reconstructed and measured."""

CHUNK_SECONDS = 64.0
"""Recordings that are held, and given to the models, at once on a GPU; a CPU takes one."""

SAMPLES = 9
RESULTS, PER_FILE = "evaluation_results.json", "per_file.parquet"


class Evaluation(NamedTuple):
    """What came of it."""

    results: dict[str, Any]
    """JSON-ready; docs/evaluation.md says what is in it."""
    counts: dict[str, list[Counts]]
    """How often each model chose each entry of each level."""


def evaluate(
    models: Models,
    places: Sequence[str | Path],
    *,
    config: TrainConfig | None = None,
    group_by: str | None = None,
    max_seconds_per_group: float = math.inf,
    output_dir: Path | None = None,
    samples: int = SAMPLES,
    measures: Sequence[str] | None = None,
    jobs: int = 1,
) -> Evaluation:
    """Reconstruct the recordings in ``places`` and measure how close they come.

    Of each recording, its first 30 s; and the loss on the crops that training would validate
    on. Holds a minute or two of audio at a time. Files that cannot be read are logged, listed
    in the results and left out.

    Parameters
    ----------
    models
        What `trainer.evaluation.models.load` returns.
    places
        Folders, manifests and shards; see `trainer.evaluation.selection.find`.
    config
        Says what the loss is and which crops it is taken on; None for the seed's.
    group_by
        Finds a recording's group as `trainer.data.recordings.group_of` does; None takes those of
        the manifest of `prepare`, if there is one.
    max_seconds_per_group
        Take no further recording of a group that has so much. The crops stay the same.
    output_dir
        Where ``evaluation_results.json``, ``per_file.parquet`` and ``samples/`` go; None
        writes nothing.
    samples
        How many recordings to keep in ``samples/``.
    measures
        Names of `trainer.evaluation.speech_quality.MEASURES`; None for all that can be computed.
    jobs
        Processes that measure while this one reconstructs; with one, this one does both. The
        figures are the same.

    Raises
    ------
    TrainerError
        When there is nothing to measure, a file name matches no group, or a measure that is named
        cannot be computed.
    """
    config = config or default_config()
    codec = next(iter(models.values())).codec
    # What cannot be measured is known before anything is read.
    speech_quality.available(measures)
    found, unreadable = selection.find(places, group_by)
    networks = {role: one.network for role, one in models.items()}
    losses = fixed_losses(networks, [one.clip for one in found], config, codec.device)
    terms = next((list(next(iter(by_role.values()))) for by_role in losses.values()), [])
    aggregator = Aggregator(models, terms, measures)
    for one in found:
        if one.clip.name in losses:
            aggregator.add_losses(one.group, losses[one.clip.name])

    taken = selection.limited(found, max_seconds_per_group, LONGEST_SECONDS)
    choice = SampleChoice(taken, samples)
    kept, table = None, None
    with contextlib.ExitStack() as stack:
        if output_dir is not None:
            output_dir.mkdir(parents=True, exist_ok=True)
            kept = KeptSamples(output_dir, codec.sample_rate)
            table = PerFile(output_dir / PER_FILE, ("path", "group"), aggregator.columns)
            stack.enter_context(table)
        bar = stack.enter_context(progress(total=len(taken), desc="evaluating", unit="file"))
        workers = stack.enter_context(
            Workers(jobs, ["trainer.evaluation.speech_quality"], "measured recordings")
        )
        reading = _chunks(taken, codec, choice, unreadable)
        for made, figures in _measured(models, reading, aggregator.measures, workers):
            one = made.one
            name, seconds = one.clip.name, len(made.reference) / codec.sample_rate
            row = aggregator.add(name, one.group, seconds, figures, made.codes, made.again)
            for role, values in losses.get(name, {}).items():
                row |= {f"{role}_{term}": value for term, value in values.items()}
            if table is not None:
                table.add({"path": name, "group": one.group, **row})
            if kept is not None and choice.wants(one):
                note = kept.keep(name, one.group, made.reference, made.audio)
                note["figures"] = {key: _finite(value) for key, value in row.items()}
            bar.update()
    if not aggregator.files:
        where = ", ".join(map(str, places))
        raise TrainerError(f"none of the {len(taken)} recordings under {where} can be read")
    results = {
        "data": [str(place) for place in places],
        "group_by": group_by,
        **aggregator.to_dict(),
        "loss_crops": {
            "count": len(losses),
            "seconds": curriculum.longest(config).length,
            "seed": config.random_seed,
        },
        "samples": [] if kept is None else kept.kept,
        "skipped": len(unreadable),
        "unreadable": [one._asdict() for one in unreadable],
    }
    if output_dir is not None:
        text = json.dumps(results, indent=1, allow_nan=False) + "\n"
        atomic_files.replace(output_dir / RESULTS, text.encode())
    return Evaluation(results, {role: use.counts for role, use in aggregator.use.items()})


def to_markdown(results: dict[str, Any]) -> str:
    """Return the table of an evaluation: rows for each group, and for all."""
    measures = {measure.name: measure for measure in MEASURES}
    figures = ["loss"] * ("loss" in results["terms"]) + results["measures"]
    roles = [role for role in ROLES if role in results]
    several = ["model"] * (len(roles) > 1)
    titles = ["group", *several, "recordings", "seconds"]
    titles += [measures[name].label if name in measures else name for name in figures]
    lines = [titles]
    for name, row in {**results["groups"], ALL: results[ALL]}.items():
        for role in roles:
            values = [row[role][figure] for figure in figures]
            digits = [measures[figure].digits if figure in measures else 4 for figure in figures]
            lines.append(
                [name, *([role] if several else []), str(row["recordings"])]
                + [f"{row['seconds']:.0f}"]
                + ["-" if v is None else f"{v:.{d}f}" for v, d in zip(values, digits, strict=True)]
            )
    head, *rows = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---" * len(titles) + "|", *rows])


Read = tuple[Taken, Samples]


def _chunks(
    taken: Sequence[Taken], codec: Codec, choice: SampleChoice, unreadable: list[Unreadable]
) -> Iterator[list[Read]]:
    """Yield recordings as they are read, as many at a time as the device gains from."""
    enough = 0.0 if codec.device.type == "cpu" else CHUNK_SECONDS
    chunk: list[Read] = []
    seconds = 0.0
    for one in taken:
        try:
            samples = read_part(one.clip, 0.0, LONGEST_SECONDS, codec.sample_rate)
        except AudioError as error:
            log.warning("skipping %s: %s", one.clip.name, error)
            unreadable.append(Unreadable(one.clip.name, str(error)))
            choice.missed(one)
            continue
        chunk.append((one, samples))
        seconds += len(samples) / codec.sample_rate
        if seconds >= enough:
            yield chunk
            chunk, seconds = [], 0.0
    if chunk:
        yield chunk


class _Made(NamedTuple):
    """A recording and what the models made of it, by role."""

    one: Taken
    reference: Samples
    audio: dict[str, Samples]
    codes: dict[str, Codes]
    again: dict[str, Codes]
    """Of the reconstruction."""


def _measured(
    models: Models,
    chunks: Iterator[list[Read]],
    measures: Sequence[Measure],
    workers: Workers,
) -> Iterator[tuple[_Made, dict[str, float]]]:
    """Yield each recording with its reconstructions and its figures, some of them ahead."""
    rate = next(iter(models.values())).codec.sample_rate
    names = tuple(measure.name for measure in measures)
    ahead: deque[_Made] = deque()

    def pairs() -> Iterator[Pair]:
        for chunk in chunks:
            for made in _reconstructed(models, chunk):
                ahead.append(made)
                yield Pair(names, made.reference, made.audio, rate)

    for figures in workers.map(measured, pairs()):
        yield ahead.popleft(), figures


def _reconstructed(models: Models, chunk: list[Read]) -> Iterator[_Made]:
    waves = [samples for _, samples in chunk]
    codes = {role: one.codec.encode(waves) for role, one in models.items()}
    made = {role: one.codec.decode(codes[role]) for role, one in models.items()}
    again = {role: one.codec.encode(made[role]) for role, one in models.items()}
    for index, (one, reference) in enumerate(chunk):
        yield _Made(
            one,
            reference,
            {role: each[index] for role, each in made.items()},
            {role: each[index] for role, each in codes.items()},
            {role: each[index] for role, each in again.items()},
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
