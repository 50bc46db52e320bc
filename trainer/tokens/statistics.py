"""Statistics of a code stream as a language model sees it: frequencies, n-grams, run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from snac_core.config import SnacConfig
from snac_core.errors import ConfigError
from snac_core.layouts.clips import depth_first
from trainer.errors import TrainerError
from trainer.model.code_use import Counts, describe
from trainer.tokens.corpus import Array, Batch
from trainer.tokens.ngrams import FrequentNgrams

GRAMS = (2, 3)

MOST_RUN = 1024
"""Longest run that is counted by its length; longer ones are counted together."""


class TokenStatistics:
    """Counts over batches of recordings; memory depends on the codebook alone.

    Parameters
    ----------
    per_frame
        Codes of each level that go with one of level 0.
    codebook_size
        Entries in each codebook.

    Raises
    ------
    TrainerError
        When levels of such lengths do not nest.
    """

    def __init__(self, per_frame: Sequence[int], codebook_size: int) -> None:
        self.per_frame, self.size = tuple(per_frame), codebook_size
        try:
            shape = SnacConfig(vq_strides=tuple(per_frame[-1] // count for count in per_frame))
        except (ConfigError, ZeroDivisionError) as error:
            raise TrainerError(
                f"levels with {list(per_frame)} codes for each of level 0 do not nest"
            ) from error
        if shape.codes_per_frame != self.per_frame:
            raise TrainerError(
                f"levels with {list(per_frame)} codes for each of level 0 do not nest"
            )
        self.order = depth_first(shape)
        levels = len(per_frame)
        self.recordings, self.frames, self.seconds = 0, 0, 0.0
        self.counts: list[Counts] = [np.zeros(codebook_size, np.int64) for _ in range(levels)]
        self.runs: list[Counts] = [np.zeros(MOST_RUN, np.int64) for _ in range(levels)]
        self.longest = [0] * levels
        self.grams = [[FrequentNgrams(n, codebook_size) for n in GRAMS] for _ in range(levels)]
        # A token of the flat layout is a level and a code: the same code of two levels differs.
        self.flat = [FrequentNgrams(n, codebook_size * levels) for n in GRAMS]

    def add(self, batch: Batch) -> None:
        """Count the codes of some recordings."""
        self.recordings += len(batch.frames)
        self.frames += int(batch.frames.sum())
        self.seconds += batch.seconds
        for level, (codes, count) in enumerate(zip(batch.levels, self.per_frame, strict=True)):
            lengths = batch.frames * count
            self.counts[level] += np.bincount(codes, minlength=self.size)
            for grams in self.grams[level]:
                grams.add(codes, lengths)
            runs = run_lengths(codes, lengths)
            self.runs[level] += np.bincount(np.minimum(runs, MOST_RUN) - 1, minlength=MOST_RUN)
            self.longest[level] = max(self.longest[level], int(runs.max()))
        flat, width = self._flat(batch.levels), len(self.order)
        for grams in self.flat:
            grams.add(flat, batch.frames * width)

    def _flat(self, levels: Sequence[Array]) -> Array:
        """Return the codes frame by frame, depth-first, each plus its level's offset."""
        split = [
            codes.reshape(-1, count) + level * self.size
            for level, (codes, count) in enumerate(zip(levels, self.per_frame, strict=True))
        ]
        return np.stack([split[level][:, index] for level, index in self.order], axis=1).ravel()

    def to_dict(self, top: int) -> dict[str, Any]:
        """Return all figures, JSON-ready, with the ``top`` most frequent n-grams."""
        levels = []
        for level, counts in enumerate(self.counts):
            runs = self.runs[level]
            levels.append(
                {
                    "per_frame": self.per_frame[level],
                    **describe(counts),
                    "most_frequent": [
                        {"code": int(code), "count": int(counts[code])}
                        for code in np.argsort(-counts, kind="stable")[:top]
                        if counts[code]
                    ],
                    "dead_codes": np.flatnonzero(counts == 0).tolist(),
                    "frequency": counts.tolist(),
                    "runs": {
                        "count": int(runs.sum()),
                        "mean": float(counts.sum() / max(1, runs.sum())),
                        "longest": self.longest[level],
                        "repeats": float(1 - runs.sum() / max(1, counts.sum())),
                        "by_length": {
                            str(length + 1): int(runs[length]) for length in np.flatnonzero(runs)
                        },
                    },
                    "ngrams": {
                        str(one.n): self._ngrams(one, top, level) for one in self.grams[level]
                    },
                }
            )
        return {
            "recordings": self.recordings,
            "frames": self.frames,
            "seconds": self.seconds,
            "codes": self.frames * len(self.order),
            "codebook_size": self.size,
            "levels": levels,
            "flat": {"ngrams": {str(one.n): self._ngrams(one, top, None) for one in self.flat}},
        }

    def _ngrams(self, grams: FrequentNgrams, top: int, level: int | None) -> dict[str, Any]:
        """Return the most frequent n-grams; of the flat layout, tokens are [level, code]."""
        best = []
        for one in grams.top(top):
            tokens: list[Any] = list(one.tokens)
            if level is None:
                tokens = [list(divmod(token, self.size)) for token in tokens]
            best.append({"tokens": tokens, "count": one.times, "share": one.times / grams.total})
        return {
            "total": grams.total,
            "kinds": grams.kinds,
            "counts_may_be_low_by": grams.missed,
            "top": best,
        }


def run_lengths(codes: Array, lengths: Array) -> Array:
    """Return the length of every run of one code, in order; none goes across recordings.

    Parameters
    ----------
    codes
        Sequences of at least one code each, one after the other.
    lengths
        Of each.
    """
    begins = np.ones(len(codes), bool)
    begins[1:] = codes[1:] != codes[:-1]
    begins[np.cumsum(lengths)[:-1]] = True
    return np.diff(np.flatnonzero(begins), append=len(codes))
