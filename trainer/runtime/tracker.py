"""Experiment trackers that receive a run's metrics beside its own files."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from trainer.config import TrainConfig
from trainer.errors import TrainerError

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """A receiver of a run's metrics."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step, named like ``train/loss``."""

    def close(self) -> None:
        """Note that the run has ended or stopped."""


class _Wandb:
    """Weights & Biases; its settings are its own environment variables."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        self._run = wandb.init(name=name, config=dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """MLflow; its settings are its own environment variables."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self._mlflow: Any = importlib.import_module("mlflow")
        self._mlflow.start_run(run_name=name)
        # Its parameters are short texts.
        self._mlflow.log_params({key: str(value)[:500] for key, value in config.items()})

    def log(self, values: Mapping[str, float], step: int) -> None:
        # A colon, as in val:general, is no part of its names.
        names = {name.replace(":", "/"): value for name, value in values.items()}
        self._mlflow.log_metrics(names, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


KNOWN: dict[str, Callable[[str, Mapping[str, Any]], Tracker]] = {"wandb": _Wandb, "mlflow": _Mlflow}


def start(config: TrainConfig) -> Tracker | None:
    """Return the tracker that the configuration names; None where it names none.

    Raises
    ------
    TrainerError
        When it cannot be imported or started.
    """
    if config.tracker is None:
        return None
    make = KNOWN.get(config.tracker)
    module, colon, function = config.tracker.partition(":")
    try:
        if make is None:
            if not colon:
                raise ImportError(f"it is none of {', '.join(KNOWN)}, and no module:function")
            make = getattr(importlib.import_module(module), function)
        return _Guarded(make(config.name, config.to_dict()))
    except Exception as error:
        raise TrainerError(f"tracker {config.tracker!r} does not start: {error}") from error


class _Guarded:
    """A tracker whose failures are logged once and do not affect the run."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker, self._failed = tracker, False

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._call(lambda: self._tracker.log(values, step))

    def close(self) -> None:
        self._call(self._tracker.close)

    def _call(self, work: Callable[[], None]) -> None:
        try:
            work()
            self._failed = False
        except Exception as error:  # noqa: BLE001 - as above
            if not self._failed:
                log.error("the tracker failed: %r", error)
            self._failed = True
