"""Read a configuration: JSON, overrides, and messages that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.config.keys import GROUPS
from trainer.config.schema import TrainConfig
from trainer.config.types import Source, Stage
from trainer.errors import TrainerError

_OBJECTS = {"curriculum": Stage, "train_data": Source}
"""Keys that hold objects with keys of their own."""


def parse(values: Mapping[str, Any]) -> TrainConfig:
    """Build a configuration from parsed JSON.

    Raises
    ------
    TrainerError
        For a missing or unknown key (naming the nearest known one) or an unusable value.
    ConfigError
        When ``model`` is no shape of a SNAC model.
    """
    try:
        return TrainConfig(**_flat(values))
    except ValidationError as error:
        raise TrainerError(_explained(error)) from None


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
    values = _flat(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise TrainerError(f"an override reads key=value, not {override!r}")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return parse(values)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` with the keys of each group beside those that stand alone."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        grouped = value if key in GROUPS and isinstance(value, Mapping) else {key: value}
        for name, inner in grouped.items():
            if grouped is value and name not in GROUPS[key].model_fields:
                raise TrainerError(_unknown(name, list(GROUPS[key].model_fields), key))
            if name in flat:
                raise TrainerError(f"{name} is given twice, in a group and outside or in another")
            flat[name] = inner
    return flat


def _unknown(key: str, known: Sequence[str], where: str) -> str:
    (near,) = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown key {key!r} in {where}; did you mean {near!r}?"


def _explained(error: ValidationError) -> str:
    """Return what is wrong with each key, its value and what would be right."""
    said, missing = [], []
    for found in error.errors():
        path = [part for part in found["loc"] if not str(part).startswith("<")]
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
        if found["type"] == "too_short" and found["input"]:
            continue  # Its items are wrong, which is said of each.
        if found["type"] == "missing":
            missing.append(where)
        elif found["type"] == "extra_forbidden":
            said.append(_unknown(where, list(TrainConfig.model_fields), "the configuration"))
        elif found["type"] == "unexpected_keyword_argument":
            known = [field.name for field in dataclasses.fields(_OBJECTS[str(path[0])])]
            said.append(_unknown(str(path[-1]), known, f"an entry of {path[0]}"))
        else:
            problem = found["msg"].removeprefix("Value error, ").partition(" after validation")[0]
            problem = re.sub("^(Input|Tuple) should", "must", problem).replace("tuple", "list")
            said.append(f"{where} {problem}, not {found['input']!r}" if where else problem)
    if missing:
        said.append(f"the configuration lacks {', '.join(missing)}")
    return "; ".join(said)
