"""The validation sets of a run: the main set, which selects the best model, and named sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from snac_core.model import SNAC
from trainer.config import TrainConfig
from trainer.data.recordings import Clip
from trainer.data.unreadable import Unreadable
from trainer.runtime.distributed import World
from trainer.runtime.stopping import StopRequest
from trainer.training.batches import DeviceTransfer
from trainer.training.find_data import RunData
from trainer.training.validation import Measured, Segments, ValidationSet


class Findings(NamedTuple):
    """The results of a validation on each set."""

    main: Measured
    named: dict[str, Measured]

    @property
    def segments(self) -> Segments:
        """Figures by segment of the main set, and of others their loss, as ``loss:NAME``."""
        others = {key(name): one.segments["loss"] for name, one in self.named.items()}
        return self.main.segments | others


class ValidationSets(NamedTuple):
    """The validation sets of a run."""

    main: ValidationSet
    """Decides which model is the best."""
    named: dict[str, ValidationSet]

    @property
    def clips(self) -> tuple[Sequence[Clip], dict[str, Sequence[Clip]]]:
        """The recordings that segments are cut from: of the main set, and of each other one."""
        named: dict[str, Sequence[Clip]] = {
            name: one.segments(1.0).clips for name, one in self.named.items()
        }
        return self.main.segments(1.0).clips, named

    def measure(self, model: SNAC, world: World | None = None) -> Findings:
        """Measure ``model`` on each, as `ValidationSet.measure` does."""
        return Findings(
            self.main.measure(model, world=world),
            {name: one.measure(model, world=world) for name, one in self.named.items()},
        )


def validation_sets(
    data: RunData,
    config: TrainConfig,
    sample_rate: int,
    world: World,
    transfer: DeviceTransfer,
    unreadable: Unreadable,
    stop: StopRequest,
) -> ValidationSets:
    """Return the sets of a run; the parameters are those of `ValidationSet`."""

    def made(clips: Sequence[Clip], place: str | None = None) -> ValidationSet:
        return ValidationSet(
            config,
            clips,
            sample_rate,
            world,
            transfer,
            unreadable,
            lambda: stop.requested,
            place,
        )

    named = {name: made(clips, config.val_sets[name]) for name, clips in data.named.items()}
    return ValidationSets(made(data.validation), named)


def key(name: str) -> str:
    """Return the name of a set's loss in `Findings.segments`."""
    return f"loss:{name}"
