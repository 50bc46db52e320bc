"""From a checkpoint on disk to a version in a model store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from snac_core.config import SnacConfig
from snac_core.errors import ModelError, StoreError
from snac_core.store import ModelStore, load
from snac_core.store.weights import read_torch
from trainer.errors import TrainerError

_NEEDED = ("config", "model", "metrics", "train_config")


def publish(
    checkpoint: Path,
    store: Path,
    *,
    half: bool = False,
    model_card: Path | None = None,
    device: torch.device | None = None,
) -> str:
    """Publish a trainer's checkpoint and make it the store's current version.

    It becomes current when, read back from the store, it gives its golden clip.

    Its parent is the version that the run started from.

    Parameters
    ----------
    checkpoint
        A ``best_model.pt`` or any other checkpoint of a run.
    store
        Folder of the model store; made when it does not exist.
    half
        Store weights as float16. The token space is then that of the rounded weights.
    model_card
        Markdown to publish along.
    device
        Where to check it; the CPU by default.

    Returns
    -------
    str
        The version's id.

    Raises
    ------
    ModelError
        When ``checkpoint`` cannot be read, or its weights do not fit its configuration.
    TrainerError
        When it is no checkpoint of a run, or the model card cannot be read.
    StoreError
        When the store cannot be written, or what was written to it is not the model; then
        another version stays current.
    """
    content = read_torch(checkpoint)
    keys = content if isinstance(content, Mapping) else {}
    if lacking := [key for key in _NEEDED if not isinstance(keys.get(key), Mapping)]:
        raise TrainerError(f"{checkpoint} is no checkpoint of a run: it lacks {lacking}")
    weights = content["model"]
    if half:
        weights = {name: tensor.half() for name, tensor in weights.items()}
    try:
        card = None if model_card is None else model_card.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainerError(f"cannot read the model card {model_card}: {error}") from error
    versions = ModelStore(store)
    version = versions.publish(
        SnacConfig.from_dict(content["config"]),
        weights,
        metrics=content["metrics"],
        parent=content.get("base"),
        trainer_config=content["train_config"],
        model_card=card,
        make_current=False,
    )
    make_current(versions, version, device or torch.device("cpu"))
    return version


def make_current(store: ModelStore, version: str, device: torch.device) -> None:
    """Make ``version`` current if it can be served from where it lies.

    Raises
    ------
    StoreError
        When it is not whole, or does not give its golden clip on ``device``.
    """
    try:
        load(store.path(version), device)
    except ModelError as error:
        raise StoreError(f"{version} is in {store.root} but not made current: {error}") from error
    store.set_current(version)
