"""Which models a run publishes: those that are better than what they replace."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from snac_core.errors import ModelError, SnacError
from snac_core.store import ModelStore, checkpoint
from trainer.runtime.distributed import World
from trainer.training.publish import publish
from trainer.training.validation import FixedSet

log = logging.getLogger(__name__)


class Gate:
    """Publishes to one store what passes.

    Parameters
    ----------
    store
        The store's folder.
    fixed
        The segments on which two models are compared, and the loss that decides.
    known
        Losses of versions on these segments, by id: of the base, and of what this run has
        published before. What is learnt here is added.
    """

    def __init__(self, store: Path, fixed: FixedSet, known: dict[str, float]) -> None:
        self.store, self.fixed, self.known = ModelStore(store), fixed, known

    def offer(self, path: Path, loss: float, baseline: float) -> str | None:
        """Publish the checkpoint at ``path`` if it should be; return the version, or None.

        Not published, and the log says why: a model that is no better than the one that the
        run started from (``baseline``) or the one that it would replace, or that does not
        give its golden clip when it is loaded from the store. Nor is a store that is full or
        away for a while, or holds what cannot be loaded here, a reason to lose a day's training.
        """
        if loss >= baseline:
            log.info("not published: no better than the model that the run started from")
            return None
        try:
            replaced = self.store.current()
            if replaced is not None and not loss < (theirs := self._loss_of(replaced)):
                log.info(
                    "not published: no better than %s, which it would replace and whose loss on "
                    "the same segments is %.4f",
                    replaced,
                    theirs,
                )
                return None
            version = publish(path, self.store.root, device=self.fixed.world.device)
        except (SnacError, OSError, torch.OutOfMemoryError) as error:
            log.error("not published: %s", error)
            return None
        self.known[version] = loss
        log.info("published %s to %s", version, self.store.root)
        return version

    def _loss_of(self, version: str) -> float:
        if version not in self.known:
            model = checkpoint.load_model(self.store.path(version)).to(self.fixed.world.device)
            if model.config.sampling_rate != self.fixed.sample_rate:
                raise ModelError(
                    f"{version}, which it would replace, is for {model.config.sampling_rate} Hz, "
                    f"not {self.fixed.sample_rate}"
                )
            alone = World(self.fixed.world.device)
            self.known[version] = self.fixed.measure(model, world=alone).terms["loss"]
        return self.known[version]
