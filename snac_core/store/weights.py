"""The weights of a model: read from a file, brought to one form, put into a `SNAC`."""

from __future__ import annotations

import functools
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.errors import ModelError
from snac_core.model import SNAC
from snac_core.utils.atomic_files import open_regular

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")

# Weight norm was once a hook and is now a parametrization; both store the same two tensors.
_OLD_WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


def canonical(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names that `SNAC` uses, detached, contiguous, on the CPU.

    ``*.weight_g`` and ``*.weight_v``, the pair that older weight norm stored, become
    ``*.parametrizations.weight.original0`` and ``...original1``. Values and dtypes stay.

    Raises
    ------
    ModelError
        If a value is not a plain tensor of floating-point numbers, each with a place of its own
        in memory, naming its key.
    """
    weights = {}
    for key, value in state_dict.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ModelError(f"weight {key!r} must be a floating-point tensor, not {found}")
        if value.layout != torch.strided or value.is_meta or value.is_nested:
            raise ModelError(f"weight {key!r} must be a dense tensor, not {value.layout}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ModelError(
                f"weight {key!r} of shape {list(value.shape)} stores fewer numbers than that"
            )
        weights[_name(key)] = value.detach().to("cpu").contiguous()
    return weights


def check_shapes(config: SnacConfig, state_dict: Mapping[str, Tensor]) -> None:
    """Check names and shapes against the configuration; copies and computes nothing.

    Raises
    ------
    ModelError
        If a key is missing or unexpected, or a shape is another than the configuration needs.
        Lists the keys.
    """
    problems = _misfits(_shapes(config), _found(state_dict))
    _refuse(problems)


def count_weights(config: SnacConfig) -> int:
    """Return how many numbers the configuration's weights are."""
    return sum(math.prod(shape) for shape in _shapes(config).values())


def build(config: SnacConfig, state_dict: Mapping[str, Tensor]) -> SNAC:
    """Return a `SNAC` in evaluation mode with exactly these weights, in float32.

    Both forms of weight norm are accepted (see `canonical`); half precision is upcast.

    Raises
    ------
    ModelError
        As `check_shapes` and `canonical`, or if a value is NaN or infinite. Lists the keys.
    """
    problems = _misfits(_shapes(config), _found(state_dict))
    fitting = {
        key: value
        for key, value in state_dict.items()
        if not isinstance(value, Tensor) or _shapes(config).get(_name(key)) == list(value.shape)
    }
    weights = {key: value.float() for key, value in canonical(fitting).items()}
    problems["not finite"] = [
        key for key, value in weights.items() if not torch.isfinite(value).all()
    ]
    _refuse(problems)
    model = SNAC(config)
    model.load_state_dict(weights)
    return model.eval()


@functools.lru_cache(maxsize=4)
def _shapes(config: SnacConfig) -> Mapping[str, list[int]]:
    return {key: list(value.shape) for key, value in SNAC(config).state_dict().items()}


def _found(state_dict: Mapping[str, Tensor]) -> dict[str, list[int]]:
    for key in state_dict:
        if not isinstance(key, str):
            raise ModelError(f"weights must have names, not {key!r:.100}")
    return {_name(key): list(getattr(value, "shape", ())) for key, value in state_dict.items()}


def _name(key: str) -> str:
    module, _, leaf = key.rpartition(".")
    return f"{module}.{_OLD_WEIGHT_NORM[leaf]}" if leaf in _OLD_WEIGHT_NORM else key


def _misfits(
    wanted: Mapping[str, list[int]], found: Mapping[str, list[int]]
) -> dict[str, list[str]]:
    return {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": [
            f"{key} {found[key]}, where the configuration needs {wanted[key]}"
            for key in wanted
            if key in found and found[key] != wanted[key]
        ],
    }


def _refuse(problems: Mapping[str, list[str]]) -> None:
    said = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems.items() if keys]
    if said:
        raise ModelError(f"weights that the configuration does not fit: {'; '.join(said)}")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file; ModelError if it is not one."""
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error
    return parse_safetensors(data, path)


def parse_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors of the bytes of a ``.safetensors`` file; ``path`` is for messages.

    In memory, since a mapped file that somebody cuts short kills whoever touches it.

    Raises
    ------
    ModelError
        If they are not such a file's.
    """
    try:
        return safetensors.torch.load(data)
    except Exception as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error


def read_torch(path: Path) -> Any:
    """Return what ``torch.save`` wrote, tensors on the CPU, running no code from the file.

    Raises
    ------
    ModelError
        If the file is damaged, is larger unpacked than packed, or holds more than tensors and
        plain containers.
    """
    try:
        with open_regular(path) as file:
            _check_archive(file)
            return torch.load(file, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path} is no file that torch.save wrote") from error
    except pickle.UnpicklingError as error:
        # What torch says is advice to run the file's code.
        named = _GLOBAL.search(str(error))
        found = f"a {named[1]}" if named else "something else"
        raise ModelError(
            f"{path} may hold tensors and plain containers only, and holds {found}"
        ) from error
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(f"{path} cannot be read as a PyTorch checkpoint: {reason}") from error


def _check_archive(file: BinaryIO) -> None:
    """Check that reading takes no more memory than the file has bytes."""
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ModelError("it is compressed, which torch.save does not do")
    unpacked = sum(member.file_size for member in members)
    if unpacked > size:
        raise ModelError(f"its members have {unpacked} bytes, of {size} in the file")
    file.seek(0)


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
