"""From a checkpoint on disk to a version in a model store."""

from __future__ import annotations

from pathlib import Path

import torch

from snac_core.config import SnacConfig
from snac_core.model_store import ModelStore
from trainer.errors import TrainerError


def publish(
    checkpoint: Path, store: Path, *, half: bool = False, model_card: Path | None = None
) -> str:
    """Publish a trainer's checkpoint and make it the store's current version.

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
    TrainerError
        When ``checkpoint`` is not one.
    StoreError
        When the store cannot be written.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TrainerError(f"cannot read the checkpoint {checkpoint}: {error.strerror}") from error
    weights = content["model"]
    if half:
        weights = {name: tensor.half() for name, tensor in weights.items()}
    target = ModelStore(store)
    return target.publish(
        SnacConfig.from_dict(content["config"]),
        weights,
        metrics=content["metrics"],
        parent=target.current() or content["train_config"]["pretrained_model"],
        trainer_config=content["train_config"],
        model_card=None if model_card is None else model_card.read_text(),
    )
