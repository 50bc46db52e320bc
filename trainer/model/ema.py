"""An exponential moving average (EMA) of the weights, which is often the better model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from snac_core.model import SNAC


class Ema:
    """The average of the weights that a model had after each step.

    Parameters
    ----------
    model
        Whose weights to follow.
    decay
        What of the average stays at each step; at first less, ``(1 + steps) / (10 + steps)``,
        so that the weights of the beginning are soon forgotten.
    """

    def __init__(self, model: SNAC, decay: float) -> None:
        def follow(
            averages: tuple[Tensor, ...] | list[Tensor],
            values: tuple[Tensor, ...] | list[Tensor],
            steps: Tensor | int,
        ) -> None:
            kept = min(decay, (1.0 + int(steps)) / (10.0 + int(steps)))
            torch._foreach_lerp_(list(averages), list(values), 1.0 - kept)

        self._averaged = AveragedModel(model, multi_avg_fn=follow)

    @property
    def model(self) -> SNAC:
        """The model with averaged weights."""
        return self._averaged.module  # type: ignore[return-value]

    def update(self, model: SNAC) -> None:
        """Take in the weights of ``model`` after a step."""
        self._averaged.update_parameters(model)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what `load_state_dict` goes on from."""
        return dict(self._averaged.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        self._averaged.load_state_dict(state)
