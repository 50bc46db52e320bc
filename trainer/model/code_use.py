"""Codebook usage, and agreement between the codes of two encodings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from snac_core.codes import Codes
from snac_core.config import SnacConfig

Counts = npt.NDArray[np.int64]


def entropy_bits(counts: Counts) -> float:
    """Return the entropy in bits of the empirical distribution; 0 for no codes at all.

    It is low by about (entries - 1) / (2 ln 2 x codes) where codes are few (Miller, 1955).
    """
    chosen = counts[counts > 0]
    if not chosen.size:
        return 0.0
    share = chosen / chosen.sum()
    return max(0.0, float(-(share * np.log2(share)).sum()))


def gini(counts: Counts) -> float:
    """Return the Gini coefficient: 0 where all entries are used alike, near 1 where one is.

    Half the mean absolute difference between two entries' counts, over the mean count.
    """
    total = int(counts.sum())
    if not total:
        return 0.0
    ranked = np.sort(counts)
    ranks = np.arange(1, len(counts) + 1)
    return float(
        2 * (ranks * ranked).sum() / (len(counts) * total) - (len(counts) + 1) / len(counts)
    )


def describe(counts: Counts) -> dict[str, Any]:
    """Return ``codes``, ``size``, ``used``, ``dead``, ``usage``, ``entropy_bits``,
    ``perplexity`` and ``gini`` of one level.
    """
    used = int((counts > 0).sum())
    entropy = entropy_bits(counts)
    return {
        "codes": int(counts.sum()),
        "size": len(counts),
        "used": used,
        "dead": len(counts) - used,
        "usage": used / len(counts),
        "entropy_bits": entropy,
        "perplexity": math.exp2(entropy),
        "gini": gini(counts),
    }


class CodeAgreement:
    """How many codes of two encodings are the same, level by level."""

    def __init__(self, levels: int) -> None:
        self.equal, self.total = [0] * levels, [0] * levels

    def add(self, first: Codes, second: Codes) -> list[float]:
        """Count two encodings of one recording and return their shares of equal codes."""
        equal = [int((a == b).sum()) for a, b in zip(first.levels, second.levels, strict=True)]
        for level, count in enumerate(equal):
            self.equal[level] += count
            self.total[level] += len(first.levels[level])
        return [count / len(codes) for count, codes in zip(equal, first.levels, strict=True)]

    @property
    def shares(self) -> list[float]:
        """Share of equal codes so far, by level."""
        return [
            equal / total if total else 0.0
            for equal, total in zip(self.equal, self.total, strict=True)
        ]


class CodeUse:
    """Which codes one model chose, and which of them survive decoding and encoding again."""

    def __init__(self, config: SnacConfig) -> None:
        self.config = config
        self.counts: list[Counts] = [
            np.zeros(config.codebook_size, np.int64) for _ in config.vq_strides
        ]
        self.kept = CodeAgreement(len(config.vq_strides))

    def add(self, codes: Codes, again: Codes) -> list[float]:
        """Count a recording's codes; return which share of each level came back the same.

        Parameters
        ----------
        codes
            Of the recording.
        again
            Of its reconstruction.
        """
        for counts, level in zip(self.counts, codes.levels, strict=True):
            counts += np.bincount(level, minlength=len(counts))
        return self.kept.add(codes, again)

    def levels(self) -> list[dict[str, Any]]:
        """Return what `describe` says of each level, and ``retention``."""
        return [
            {**describe(counts), "retention": share}
            for counts, share in zip(self.counts, self.kept.shares, strict=True)
        ]

    def coded_bits_per_second(self) -> float:
        """Return the bit rate of an ideal coder that knows each level's frequencies alone."""
        frames = self.config.sampling_rate / self.config.frame_samples
        return sum(
            frames * count * entropy_bits(counts)
            for count, counts in zip(self.config.codes_per_frame, self.counts, strict=True)
        )
