"""The weights of a model: read from a file, brought to one form, put into a `SNAC`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.errors import ModelError
from snac_core.model import SNAC

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
        If a value is not a tensor of floating-point numbers, naming its key.
    """
    weights = {}
    for key, value in state_dict.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ModelError(f"weight {key!r} must be a floating-point tensor, not {found}")
        module, _, leaf = key.rpartition(".")
        name = f"{module}.{_OLD_WEIGHT_NORM[leaf]}" if leaf in _OLD_WEIGHT_NORM else key
        weights[name] = value.detach().to("cpu").contiguous()
    return weights


def build(config: SnacConfig, state_dict: Mapping[str, Tensor]) -> SNAC:
    """Return a `SNAC` in evaluation mode with exactly these weights, in float32.

    Both forms of weight norm are accepted (see `canonical`); half precision is upcast.

    Raises
    ------
    ModelError
        If a key is missing or unexpected, a shape is another than the configuration needs,
        or a value is NaN or infinite. Lists the keys.
    """
    weights = {key: value.float() for key, value in canonical(state_dict).items()}
    model = SNAC(config)
    wanted = {key: list(value.shape) for key, value in model.state_dict().items()}
    found = {key: list(value.shape) for key, value in weights.items()}
    problems = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": [
            f"{key} {found[key]}, where the configuration needs {wanted[key]}"
            for key in wanted
            if key in found and found[key] != wanted[key]
        ],
        "not finite": [key for key, value in weights.items() if not torch.isfinite(value).all()],
    }
    said = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems.items() if keys]
    if said:
        raise ModelError(f"weights that the configuration does not fit: {'; '.join(said)}")
    model.load_state_dict(weights)
    return model.eval()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file; ModelError if it is not one."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error


def read_torch(path: Path) -> Any:
    """Return what ``torch.save`` wrote, tensors on the CPU, running no code from the file.

    Raises
    ------
    ModelError
        If the file is damaged, or holds more than tensors and plain containers.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{path} cannot be read as a PyTorch checkpoint: {reason}") from error


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
