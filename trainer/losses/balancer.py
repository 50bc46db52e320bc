"""A loss balancer: a term's weight sets its share of the gradient, whatever the term's scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.errors import TrainerError
from trainer.losses.losses import GlobalCount


class Balancer:
    """Mixes the gradients that terms have at what the codec made, as EnCodec does.

    Each term's gradient is divided by a running mean of its size and multiplied by the share
    that the term's weight is of all weights (arXiv:2210.13438, section 3.4). Two things differ
    from there. What all is multiplied by (R) is the sum of the weighted sizes and not 1, so that
    learning rate, clipping and the terms that are not balanced mean what they mean without a
    balancer. And a gradient's size is the sum over segments of the norm of each segment's part,
    not their mean: then it is the same for any number of segments or processes.

    Parameters
    ----------
    weights
        Above 0, by term.
    decay
        Of the running mean, per step.
    global_count
        As for `trainer.losses.losses.Losses`, for sizes; called once in a backward pass.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        decay: float = 0.999,
        global_count: GlobalCount | None = None,
    ) -> None:
        self.weights, self.decay, self.global_count = dict(weights), decay, global_count
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def backward(
        self, terms: Mapping[str, Tensor], made: Tensor, scale: float = 1.0
    ) -> dict[str, float]:
        """Add to the gradients of everything that ``terms`` depend on.

        Terms through which no gradient reaches ``made`` (commitment, codebook) are not
        balanced: their gradient is that of weight times value. Where a size is not a finite
        number, neither are the gradients that this leaves, and the running means stay.

        Parameters
        ----------
        terms
            Scalars, unweighted; each needs a weight. Weights of absent terms count for nothing.
        made
            What the codec made, before anything else was done with it; Tensor[B x ...].
        scale
            Times all gradients: the share of one of several batches that make up a step.

        Returns
        -------
        dict
            The size that each balanced term's gradient had in this batch.

        Raises
        ------
        TrainerError
            For a term without a weight.
        """
        if unknown := [name for name in terms if name not in self.weights]:
            raise TrainerError(
                f"the balancer has weights for {', '.join(self.weights)}, none for "
                f"{', '.join(unknown)}"
            )
        gradients: dict[str, Tensor] = {}
        others = []
        for name, term in terms.items():
            gradient = _gradient(term, made)
            if gradient is not None:
                gradients[name] = gradient
            elif term.requires_grad:
                others.append(scale * self.weights[name] * term)
        sizes = self._sizes(gradients)
        self._remember(sizes)
        tensors, slopes = others, [torch.ones_like(term) for term in others]
        if gradients:
            tensors, slopes = [*others, made], [*slopes, scale * self._mixed(gradients, made)]
        torch.autograd.backward(tensors, slopes)
        return sizes

    def state_dict(self) -> dict[str, Any]:
        """Return the running means."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def _sizes(self, gradients: Mapping[str, Tensor]) -> dict[str, float]:
        if not gradients:
            return {}
        sizes = torch.stack(
            [gradient.float().flatten(1).norm(dim=1).sum() for gradient in gradients.values()]
        )
        if self.global_count is not None:
            sizes = self.global_count(sizes)
        return dict(zip(gradients, sizes.tolist(), strict=True))

    def _remember(self, sizes: Mapping[str, float]) -> None:
        if not all(map(math.isfinite, sizes.values())):
            return
        for name, size in sizes.items():
            self._sums[name] = self._sums.get(name, 0.0) * self.decay + size
            self._counts[name] = self._counts.get(name, 0.0) * self.decay + 1.0

    def _mixed(self, gradients: Mapping[str, Tensor], made: Tensor) -> Tensor:
        weights = {name: self.weights[name] for name in gradients}
        means = {name: self._sums.get(name, 0.0) / self._counts.get(name, 1.0) for name in weights}
        whole = sum(weights[name] * means[name] for name in weights) / sum(weights.values())
        mixed = []
        for name, gradient in gradients.items():
            # A term that has met silence alone has no size yet, and no gradient either.
            scale = weights[name] * whole / max(means[name], 1e-12)
            mixed.append(scale * gradient.float())
        return torch.stack(mixed).sum(dim=0).to(made.dtype)


def _gradient(term: Tensor, made: Tensor) -> Tensor | None:
    """Return the gradient of ``term`` at ``made``, or None when none flows there."""
    if not term.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(term, made, retain_graph=True, allow_unused=True)
    return gradient
