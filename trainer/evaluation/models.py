"""The models of an evaluation: one alone, or a fine-tuned model and its base."""

from __future__ import annotations

from typing import NamedTuple

import torch

from snac_core.codec import Codec
from snac_core.model import SNAC
from snac_core.store import checkpoint
from snac_core.store.golden import check_golden
from snac_core.store.weights import build
from trainer.errors import TrainerError

ROLES = BASE, FINETUNED, ALONE = ("base", "finetuned", "model")
"""What models are called in results: the first two, or the last alone."""


class Compared(NamedTuple):
    """A model under evaluation."""

    reference: str
    """What it was asked for by."""
    codec: Codec
    network: SNAC
    """The one that the codec runs."""


Models = dict[str, Compared]
"""By role: ``base`` and ``finetuned``, or ``model`` alone."""


def load(model: str, base: str | None, device: torch.device | str) -> Models:
    """Load what is to be evaluated, by any references that `snac_core.load` takes.

    Raises
    ------
    SnacError
        As `snac_core.load` does.
    TrainerError
        When the two are for different sample rates.
    """
    if base is None:
        return {ALONE: _load(model, device)}
    models = {BASE: _load(base, device), FINETUNED: _load(model, device)}
    rates = {one.codec.sample_rate for one in models.values()}
    if len(rates) > 1:
        listed = " and ".join(
            f"{one.reference} for {one.codec.sample_rate} Hz" for one in models.values()
        )
        raise TrainerError(f"models are compared at one sample rate; {listed}")
    return models


def _load(reference: str, device: torch.device | str) -> Compared:
    found = checkpoint.read(reference)
    network = build(found.config, found.weights)
    codec = Codec(network, version=found.version, token_space=found.token_space, device=device)
    if found.manifest is not None:
        check_golden(codec, found.manifest.golden)
    return Compared(reference, codec, network)
