"""``snac-bulk encode``: a corpus into codes, each clip once however often the run is killed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bulk import cluster, filesystems
from bulk.errors import TooManyErrorsError
from bulk.output import CARD, Output, RowOptions, RowWriter, Written, card, locked
from bulk.pipeline import Pipeline
from bulk.plan import Plan, make_plan
from bulk.progress import Progress, Summary
from bulk.reading import ReadOptions
from bulk.sources import Options, Several, find_source
from snac_core.audio import Channel
from snac_core.codec import WINDOW_SECONDS
from snac_core.store import checkpoint
from snac_core.store.checkpoint import Checkpoint

CLIPS_PER_SHARD = 1024
GROUPS_PER_READER, LEAST_CLIPS = 8, 32
"""How a small corpus is divided; see `_group_size`."""
CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 64.0, 512.0
"""Audio that a codec gets at once."""


@dataclasses.dataclass(frozen=True)
class EncodeOptions:
    """What a run is asked for.

    Parameters
    ----------
    inputs
        Folders, files, patterns or ``hub:`` names.
    output
        Folder, path or URL.
    model
        Anything that ``snac_core.load`` takes.
    source
        How the inputs are taken.
    rows
        What the rows have.
    format
        A key of `bulk.output.FORMATS`.
    channel, min_seconds, max_seconds
        As `ReadOptions` takes them.
    device
        Torch device of the codecs.
    codecs
        How many; None fills the cluster.
    clips_per_shard
        Most clips in one file of rows: the work that a killed run repeats. Files of a small
        corpus have fewer.
    max_errors
        Failed clips beyond which the run stops; None for no limit.
    batch_seconds
        Audio that a codec gets at once; None picks for the device.
    """

    inputs: Sequence[str]
    output: str
    model: str = "starter"
    source: Options = dataclasses.field(default_factory=Options)
    rows: RowOptions = dataclasses.field(default_factory=RowOptions)
    format: str = "parquet"
    channel: Channel = "average"
    min_seconds: float = 0.0
    max_seconds: float | None = None
    device: str = "cpu"
    codecs: int | None = None
    clips_per_shard: int = CLIPS_PER_SHARD
    max_errors: int | None = None
    batch_seconds: float | None = None


def encode(
    options: EncodeOptions,
    *,
    quiet: bool = True,
    report: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Encode what the output does not hold yet, on the cluster that this process is connected to.

    Parameters
    ----------
    options
        What to do.
    quiet
        Whether to show no progress.
    report
        Called with what has been done so far, after the plan and with each shard.

    Raises
    ------
    SnacError
        When the input, the output or the model cannot be used.
    TooManyErrorsError
        When more clips failed than ``max_errors``; what was done stays.
    """
    output = Output(options.output)
    model = checkpoint.read(options.model)
    output.make()
    with locked(output.lock, output.folder):
        if output.begun:
            output.load()
        source = Several([find_source(place, options.source) for place in options.inputs])
        plan = make_plan(source, output.ledger.done())
        try:
            return _run(options, output, model, plan, quiet, report)
        finally:
            plan.close()


def read_options(options: EncodeOptions, model: Checkpoint) -> ReadOptions:
    """Return how a run's clips are read."""
    on_gpu = options.device.startswith("cuda")
    return ReadOptions(
        model.config,
        round(WINDOW_SECONDS * model.config.sampling_rate),
        options.channel,
        options.min_seconds,
        options.max_seconds,
        batch_seconds=options.batch_seconds or (GPU_BATCH_SECONDS if on_gpu else CPU_BATCH_SECONDS),
        audio_column=options.source.audio_column or "audio",
    )


def _run(
    options: EncodeOptions,
    output: Output,
    model: Checkpoint,
    plan: Plan,
    quiet: bool,
    report: Callable[[Summary], None],
) -> Summary:
    rows = RowWriter(model.config, model.version, model.token_space, plan.carried, options.rows)
    output.begin(_settings(options, model), rows.schema, plan.carried)
    output.retire(plan.ids)
    summary = Summary(found=plan.found, skipped=plan.found - plan.todo)
    report(summary)
    if plan.todo:
        writing = (output.folder, output.settings, rows)
        reading = read_options(options, model)
        pipeline = Pipeline(model, options.device, reading, writing, options.codecs)
        groups = plan.groups(_group_size(options, plan.todo))
        with Progress(summary, quiet) as progress, contextlib.closing(pipeline.run(groups)) as made:
            for written in _until_too_many(made, summary, options.max_errors):
                if written is not None:
                    output.ledger.commit(written.ledger, written.shard)
                    before = summary.seconds
                    progress.add(summary.add(written.ledger), summary.seconds - before)
                    report(summary)
                progress.show(pipeline.seconds, pipeline.codecs)
        summary.working = pipeline.working
    output.clean()
    errors = output.write_errors()
    filesystems.write_bytes(f"{output.folder}/{CARD}", card(output, errors.num_rows).encode())
    if options.max_errors is not None and summary.failed > options.max_errors:
        raise TooManyErrorsError(
            f"{summary.failed} clips failed, and --max-errors is {options.max_errors}; "
            f"{summary.remaining} were not tried; {output.folder}/errors.parquet has the reasons"
        )
    return summary


def _group_size(options: EncodeOptions, clips: int) -> int:
    """Return how many clips a group has at most: fewer in a small corpus, for all to have work.

    A group is read by one process. At the end of a run some readers have none left, and the less
    work the last groups are, the shorter that lasts.
    """
    codecs = options.codecs or cluster.room(options.device)
    shares = GROUPS_PER_READER * cluster.readers(codecs, options.device)
    return min(options.clips_per_shard, max(LEAST_CLIPS, -(-clips // shares)))


def _until_too_many(
    written: Iterator[Written | None], summary: Summary, most: int | None
) -> Iterator[Written | None]:
    for one in written:
        yield one
        if most is not None and summary.failed > most:
            return


def _settings(options: EncodeOptions, model: Checkpoint) -> dict[str, Any]:
    """Return what all runs on one output must share, and what is told of them."""
    return {
        "token_space": model.token_space,
        "model_version": model.version,
        "sample_rate": model.config.sampling_rate,
        "codes_per_frame": list(model.config.codes_per_frame),
        "format": options.format,
        "rows": dataclasses.asdict(options.rows),
        "channel": options.channel,
        "min_seconds": options.min_seconds,
        "max_seconds": options.max_seconds,
        "inputs": list(options.inputs),
        "source": dataclasses.asdict(options.source),
    }
