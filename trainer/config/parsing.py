"""Read a configuration: JSON, overrides, and messages that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snac_core.config import SnacConfig
from trainer.config.schema import Source as Source
from trainer.config.schema import Stage as Stage
from trainer.config.schema import TrainConfig
from trainer.errors import TrainerError


def parse(values: Mapping[str, Any]) -> TrainConfig:
    """Build a configuration from parsed JSON.

    Raises
    ------
    TrainerError
        For a missing or unknown key (naming the nearest known one) or an unusable value.
    """
    values = dict(values)
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    _refuse_unknown(values, list(fields), "the configuration")
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and name not in values
    ]
    if missing:
        raise TrainerError(f"the configuration lacks {', '.join(missing)}")
    for key, value in values.items():
        values[key] = _checked(key, value, str(fields[key].type))
    return TrainConfig(**values)


def load(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration file and apply ``key=value`` overrides (values are JSON or text).

    Raises
    ------
    TrainerError
        When the file cannot be read or parsed, or holds something that cannot be used.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise TrainerError(f"cannot read the configuration {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise TrainerError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TrainerError(f"{path} must hold a JSON object, not {type(values).__name__}")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise TrainerError(f"an override reads key=value, not {override!r}")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return parse(values)


def _refuse_unknown(values: Mapping[str, Any], known: list[str], where: str) -> None:
    for key in values:
        if key not in known:
            (near,) = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise TrainerError(f"unknown key {key!r} in {where}; did you mean {near!r}?")


def _checked(key: str, value: Any, annotation: str) -> Any:
    """Return ``value`` as the type that ``annotation`` names."""
    if value is None and annotation.endswith("| None"):
        return None
    if key == "train_data" and not isinstance(value, str):
        sources = tuple(_source(entry) for entry in _listed(key, value))
        if not sources:
            raise TrainerError("train_data must not be empty")
        return sources
    if key == "train_data":
        return value
    if key == "curriculum":
        return tuple(_stage(entry) for entry in _listed(key, [] if value is None else value))
    if key == "model":
        if not isinstance(value, dict):
            raise TrainerError(f"model must be a JSON object, not {value!r}")
        return SnacConfig.from_dict(value)
    if annotation.startswith("tuple["):
        elements = annotation.removeprefix("tuple[").removesuffix("]").split(", ")
        items = _listed(key, value)
        if "..." not in elements and len(items) != len(elements):
            raise TrainerError(f"{key} must be a list of {len(elements)}, not {value!r}")
        return tuple(_checked(key, item, elements[0]) for item in items)
    kind = annotation.removesuffix(" | None")
    types: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "bool": (bool,),
    }
    fits = isinstance(value, types[kind]) and (kind == "bool" or not isinstance(value, bool))
    if not fits:
        raise TrainerError(f"{key} must be of type {kind}, not {value!r}")
    if kind != "float":
        return value
    number = float(value)
    if not math.isfinite(number):
        raise TrainerError(f"{key} must be a finite number, not {value!r}")
    return number


def _listed(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TrainerError(f"{key} must be a list, not {value!r}")
    return value


def _stage(entry: Any) -> Stage:
    if not isinstance(entry, dict) or "epochs" not in entry or "length" not in entry:
        raise TrainerError(f"a curriculum stage needs epochs and length, not {entry!r}")
    _refuse_unknown(entry, ["epochs", "length", "batch_multiplier"], "a curriculum stage")
    epochs = entry["epochs"]
    first, last = _checked(
        "epochs", epochs if isinstance(epochs, list) else [epochs] * 2, "tuple[int, int]"
    )
    if not 1 <= first <= last:
        raise TrainerError(f"epochs of a stage are [first, last] counted from 1, not {epochs!r}")
    length = _checked("length", entry["length"], "float")
    multiplier = _checked("batch_multiplier", entry.get("batch_multiplier", 1.0), "float")
    if length <= 0 or multiplier <= 0:
        raise TrainerError(f"length and batch_multiplier must be above 0 in {entry!r}")
    return Stage((first, last), length, multiplier)


def _source(entry: Any) -> Source:
    if isinstance(entry, str):
        return Source(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise TrainerError(f"an entry of train_data is a path or needs one, not {entry!r}")
    _refuse_unknown(entry, ["path", "weight"], "an entry of train_data")
    weight = _checked("weight", entry.get("weight", 1.0), "float")
    if weight <= 0:
        raise TrainerError(f"weight must be above 0 in {entry!r}")
    return Source(entry["path"], weight)
