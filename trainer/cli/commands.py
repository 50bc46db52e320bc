"""The implementation of each ``snac-trainer`` command."""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.runtime.distributed import (
    device_called,
    is_worker,
    joined_world,
    process_count,
)
from trainer.runtime.launcher import known_to_launcher, launch


def run(options: argparse.Namespace) -> None:
    """Run the command that was parsed.

    Raises
    ------
    SnacError, OSError
        For what a person is to be told in a line.
    """
    try:
        COMMANDS[options.command](options)
    except torch.OutOfMemoryError:
        raise TrainerError(
            "out of memory: lower batch_size or eval_batch_size, or use bf16"
        ) from None


def _prepare(options: argparse.Namespace) -> None:
    from trainer.preparation.prepare import prepare

    split = prepare(
        options.input_dir,
        options.output_dir,
        train_ratio=options.train_ratio,
        seed=options.seed,
        group_by=options.group_by,
        val_groups=options.val_groups.split(",") if options.val_groups else (),
        copy=options.copy,
        flac=options.flac,
        sample_rate=options.sample_rate,
        shards=options.shards,
        shard_recordings=options.shard_recordings,
        shard_bytes=options.shard_mb * 1e6,
        min_seconds=options.min_seconds,
        max_seconds=options.max_seconds,
        min_loudness=options.min_loudness,
        max_loudness=options.max_loudness,
        min_bandwidth=options.min_bandwidth,
        jobs=options.jobs,
        channel=options.channel,
        strict=options.strict,
    )
    print(f"{split.train} recordings to train on, {split.val} to validate: {options.output_dir}")


def _train(options: argparse.Namespace) -> None:
    overrides = list(options.set)
    if options.resume is not None:
        overrides.append(f"resume={json.dumps(options.resume)}")
    config = configuration.load(options.config, overrides)
    alone = not (options.ddp or options.nproc is not None) or is_worker()
    processes = 1 if alone else process_count(options.nproc, options.device)
    if options.dry_run:
        from trainer.training.dry_run import plan

        print(plan(config, processes))
        return
    if not alone:
        launch(_for_each_process(options, overrides), processes, options.max_restarts)
        return
    from trainer.training.loop import train

    with joined_world(options.device) as world, known_to_launcher(world.rank):
        if not world.main:
            logging.getLogger().setLevel(logging.WARNING)
        best = train(config, world)
        if world.main:
            print(_outcome(best))


def _pretrain(options: argparse.Namespace) -> None:
    from trainer.training.pretraining import pretrain

    config = configuration.load(options.config, options.set)
    print(f"encoder and quantizer: {pretrain(config, device_called(options.device))}")


def _outcome(best: Path) -> str:
    """Return the outcome of a run in one line."""
    if not best.exists():
        return "no best model yet"
    metrics = torch.load(best, map_location="cpu", weights_only=True, mmap=True)["metrics"]
    loss, base, gain = (
        metrics[name] for name in ("best_val_loss", "baseline_val_loss", "improvement")
    )
    interval = metrics.get("improvement_ci95", math.inf)
    verdict = "" if gain > interval else "; not better than the base beyond chance"
    beyond = f"95 % interval {interval:.2%} to either side"
    if not math.isfinite(interval):
        beyond = "no interval, as there are fewer than two validation segments"
    return (
        f"best model: {best}: val_loss {loss:.4f}, base {base:.4f}, "
        f"{-gain:+.2%} ({beyond}){verdict}"
    )


def _for_each_process(options: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Return the arguments with which each of several processes trains."""
    given = ["train", "--config", str(options.config)]
    given += [f"--set={override}" for override in overrides]
    return given + ([f"--device={options.device}"] if options.device == "cpu" else [])


def _evaluate(options: argparse.Namespace) -> None:
    from trainer.evaluation import models, report
    from trainer.evaluation.evaluate import evaluate, to_markdown

    run: Path | None = options.run_dir
    evaluation = evaluate(
        models.load(options.model, options.base, device_called(options.device)),
        options.data,
        config=configuration.load(run / "config.json") if run is not None else None,
        group_by=options.group_by,
        max_seconds_per_group=options.max_seconds_per_group,
        output_dir=options.output_dir,
        samples=options.samples,
        measures=options.measures.split(",") if options.measures else None,
        jobs=options.jobs,
    )
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(evaluation.results, indent=1) + "\n")
    print(to_markdown(evaluation.results))
    if options.output_dir is not None:
        print(f"\nreport: {report.write(evaluation, options.output_dir, run)}")


def _tokens_report(options: argparse.Namespace) -> None:
    from trainer.tokens import report as tokens_report

    statistics = tokens_report.measure(options.corpus, options.codebook_size, options.top)
    print(tokens_report.to_markdown(statistics))
    print(f"\nreport: {tokens_report.write(statistics, options.output_dir)}")


def _publish(options: argparse.Namespace) -> None:
    from trainer.training.publish import publish

    card = options.model_card
    if options.store is None and options.push is None:
        raise TrainerError("publish needs --store DIR or --push OWNER/NAME, or both")
    if options.store is not None:
        version = publish(options.model, options.store, half=options.half, model_card=card)
        print(f"published {version} to {options.store}")
    if options.push is not None:
        from snac_core.export import push
        from trainer.training.publish import read_card

        print(f"pushed to {push(options.model, options.push, read_card(card), half=options.half)}")


COMMANDS = {
    "prepare": _prepare,
    "train": _train,
    "pretrain": _pretrain,
    "evaluate": _evaluate,
    "tokens-report": _tokens_report,
    "publish": _publish,
}
"""What runs each command."""
