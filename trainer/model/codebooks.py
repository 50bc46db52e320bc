"""Keeping codebook entries in use while the quantizer trains.

Entries unused for a while are replaced by recent latents (as Jukebox does,
arXiv:2005.00341, section 3.1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from snac_core.model.quantizer import Level, ResidualVectorQuantize, VectorQuantize
from trainer.runtime.distributed import World

REMEMBERED = 16384
"""Latents per level that revived entries are drawn from."""


JITTER = 0.02
"""Standard deviation of what is added to a revived entry, as a share of the latents'."""


class CodebookUsage:
    """Counts which entries are chosen, and revives those that are not.

    Parameters
    ----------
    quantizer
        Whose codebooks to keep.
    seed
        Decides which latents revived entries take.
    world
        The processes that train it. What each saw counts for all, and all then hold the
        same entries, counts and latents.
    """

    def __init__(
        self, quantizer: ResidualVectorQuantize, seed: int, world: World | None = None
    ) -> None:
        self.world = world or World(torch.device("cpu"))
        levels = (cast(VectorQuantize, level) for level in quantizer.quantizers)
        self._books = [level.codebook.weight for level in levels]
        self._counts = [torch.zeros(len(book), dtype=torch.int64) for book in self._books]
        self._recent: list[deque[Tensor]] = [deque() for _ in self._books]
        self._random = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def learn(self, levels: Iterable[Level], decay: float) -> None:
        """Take in this process's part of one batch: `observe`, and `follow` with a ``decay``."""
        levels = self.of_all(levels)
        self.observe(levels)
        if decay:
            self.follow(levels, decay)

    def of_all(self, levels: Iterable[Level]) -> list[Level]:
        """Return the levels of the whole batch, of which each process has a part."""
        if self.world.size == 1:
            return list(levels)
        return [
            # Entries are not looked at here, and latents say all that they could.
            Level(self.world.all_gather_rows(level.codes), latents, latents)
            for level in levels
            for latents in (self.world.all_gather_rows(level.projected.detach()),)
        ]

    @torch.no_grad()
    def observe(self, levels: Iterable[Level]) -> None:
        """Count the codes of one batch and remember its latents."""
        for counts, recent, level in zip(self._counts, self._recent, levels, strict=True):
            counts += torch.bincount(level.codes.flatten().cpu(), minlength=len(counts))
            recent.append(level.projected.detach().float().transpose(1, 2).flatten(0, 1).cpu())
            while sum(map(len, recent)) - len(recent[0]) >= REMEMBERED:
                recent.popleft()

    @torch.no_grad()
    def follow(self, levels: Iterable[Level], decay: float) -> None:
        """Move each entry that one batch chose towards the mean of the latents that chose it.

        Of an entry's old value, ``decay`` stays (van den Oord et al., arXiv:1711.00937,
        appendix A.1, with the same step for every entry in use). Unlike gradient steps this
        keeps up with latents whose scale is still changing.
        """
        for book, level in zip(self._books, levels, strict=True):
            latents = level.projected.detach().to(book.dtype).transpose(1, 2).flatten(0, 1)
            used, place, counts = torch.unique(
                level.codes.flatten(), return_inverse=True, return_counts=True
            )
            sums = book.new_zeros(len(used), book.shape[1]).index_add_(0, place, latents)
            book[used] = decay * book[used] + (1.0 - decay) * sums / counts[:, None]
        # A GPU adds in another order each time.
        self.world.broadcast_(self._books)

    def perplexities(self) -> list[float]:
        """Return each level's perplexity since the last revival: entries in effective use."""
        values = []
        for counts in self._counts:
            share = counts.double() / counts.sum().clamp(min=1)
            values.append(float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum())))
        return values

    @torch.no_grad()
    def revive(self, optimizer: torch.optim.Optimizer | None = None) -> list[int]:
        """Replace entries unused since the last call; return how many, per level.

        Parameters
        ----------
        optimizer
            Of the entries, if they have gradients: what it has gathered of a replaced entry's is
            forgotten, as it was another's.
        """
        replaced = []
        for book, counts, recent in zip(self._books, self._counts, self._recent, strict=True):
            unused = (counts == 0).nonzero().flatten()
            latents = torch.cat(tuple(recent))
            picks = torch.randint(len(latents), (len(unused),), generator=self._random)
            # Two entries at one place would be chosen, and moved, as one.
            spread = JITTER * latents.std(dim=0, correction=0)
            jitter = spread * torch.randn(len(unused), latents.shape[1], generator=self._random)
            unused = unused.to(book.device)
            book[unused] = (latents[picks] + jitter).to(book)
            moments = {} if optimizer is None else optimizer.state.get(book, {})
            for moment in moments.values():
                if moment.shape == book.shape:
                    moment[unused] = 0.0
            counts.zero_()
            replaced.append(len(unused))
        self.world.broadcast_(self._books)
        return replaced

    def state_dict(self) -> dict[str, Any]:
        """Return what is counted and remembered."""
        return {
            "counts": list(self._counts),
            "recent": [list(recent) for recent in self._recent],
            "random": self._random.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._counts = [counts.clone() for counts in state["counts"]]
        self._recent = [deque(recent) for recent in state["recent"]]
        self._random.set_state(state["random"])
