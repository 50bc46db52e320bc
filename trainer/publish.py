"""From a checkpoint on disk to a version in a model store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from snac_core.config import SnacConfig
from snac_core.model_store import ModelStore
from snac_core.weights import read_torch
from trainer.errors import TrainerError

_NEEDED = ("config", "model", "metrics", "train_config")


def publish(
    checkpoint: Path, store: Path, *, half: bool = False, model_card: Path | None = None
) -> str:
    """Publish a trainer's checkpoint and make it the store's current version.

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
        When the store cannot be written.
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
    return ModelStore(store).publish(
        SnacConfig.from_dict(content["config"]),
        weights,
        metrics=content["metrics"],
        parent=content.get("base"),
        trainer_config=content["train_config"],
        model_card=card,
    )
