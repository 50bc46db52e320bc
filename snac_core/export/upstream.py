"""The format of published SNAC models, which the package ``snac`` loads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch

from snac_core.export.card import model_card
from snac_core.store.checkpoint import Checkpoint
from snac_core.store.hub import TORCH_WEIGHTS
from snac_core.store.manifest import CONFIG, MODEL_CARD
from snac_core.store.weights import build
from snac_core.utils import atomic_files


def write_upstream(found: Checkpoint, folder: Path, card: str | None = None) -> list[Path]:
    """Write ``config.json``, ``pytorch_model.bin`` and ``README.md`` for ``snac.SNAC``.

    Weights are float32, with weight norm as pairs of magnitude and direction.

    Parameters
    ----------
    found
        As `snac_core.store.checkpoint.read` returns it.
    card
        The README.md; by default what `model_card` says.

    Returns
    -------
    list[Path]
        The files.

    Raises
    ------
    ModelError
        If the weights do not fit the configuration.
    OSError
        If a file cannot be written.
    """
    weights = build(found.config, found.weights).state_dict()
    data = io.BytesIO()
    torch.save({name: value.clone() for name, value in weights.items()}, data)
    contents = {
        CONFIG: (json.dumps(found.config.to_dict(), indent=2) + "\n").encode(),
        TORCH_WEIGHTS: data.getvalue(),
        MODEL_CARD: (card or model_card(found)).encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        atomic_files.replace(folder / name, content)
    return [folder / name for name in contents]
