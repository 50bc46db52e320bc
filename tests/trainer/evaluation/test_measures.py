"""Measures, statistics and the choice of samples, each by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.conftest import RATE, voice
from trainer.data.recordings import Clip
from trainer.evaluation import speech_quality
from trainer.evaluation.aggregator import Mean
from trainer.evaluation.selection import SampleChoice, Taken
from trainer.model.code_use import describe, gini


def test_measures_know_equal_from_different() -> None:
    first, second = voice(1.0, seed=1), voice(1.0, seed=2)
    assert speech_quality.stft_distance(first, first, RATE) == 0
    assert speech_quality.stft_distance(first, second, RATE) > 0.5
    assert speech_quality.stft_distance(first, 0.9 * first, RATE) == pytest.approx(
        0.1 - math.log(0.9), rel=0.05
    )
    assert speech_quality.pesq(first, first, RATE) > 4.5
    assert speech_quality.pesq(first, second, RATE) < 3
    assert math.isnan(speech_quality.pesq(first[:1000], first[:1000], RATE))
    silence = np.zeros_like(first)
    assert math.isnan(speech_quality.pesq(silence, first, RATE))
    assert math.isnan(speech_quality.stft_distance(silence, first, RATE))


def test_codebook_figures_of_known_distributions() -> None:
    even, single = np.full(8, 5), np.array([0, 0, 0, 40])
    assert describe(even)["perplexity"] == pytest.approx(8)
    assert gini(even) == pytest.approx(0)
    assert (describe(single)["perplexity"], describe(single)["dead"]) == (1, 3)
    assert gini(single) == pytest.approx(3 / 4)
    counts = np.random.default_rng(0).integers(0, 50, 64)
    pairs = np.abs(counts[:, None] - counts[None, :]).mean()
    assert gini(counts) == pytest.approx(pairs / (2 * counts.mean()))


def test_a_running_mean_is_the_mean() -> None:
    values = 1e6 + np.random.default_rng(0).standard_normal(1000)
    mean = Mean()
    for value in (*values, math.nan, math.inf):
        mean.add(value)
    assert mean.count == 1000
    assert mean.mean == pytest.approx(values.mean(), rel=1e-12)
    assert mean.ci95 == pytest.approx(1.96 * values.std(ddof=1) / 1000**0.5, rel=1e-6)
    assert (Mean().mean, Mean().ci95) == (None, None)


@pytest.fixture
def taken(tmp_path: Path) -> Callable[[str], list[Taken]]:
    def of(groups: str) -> list[Taken]:
        return [
            Taken(Clip(tmp_path / f"{number}.wav", 1, 1), group)
            for number, group in enumerate(groups)
        ]

    return of


@pytest.mark.parametrize(
    ("groups", "count", "kept"),
    [
        ("aaaabbbb", 4, {"a": 2, "b": 2}),
        ("aabbbbbb", 6, {"a": 2, "b": 4}),
        ("abcdefgh", 4, 4),
        ("ab", 9, {"a": 1, "b": 1}),
        ("aaa", 0, {}),
    ],
)
def test_samples_are_spread_over_groups(
    taken: Callable[[str], list[Taken]], groups: str, count: int, kept: dict[str, int] | int
) -> None:
    found = taken(groups)
    choice = SampleChoice(found, count)
    chosen = [one.group for one in found if choice.wants(one)]
    if isinstance(kept, int):
        assert len(chosen) == len(set(chosen)) == kept
    else:
        assert {name: chosen.count(name) for name in set(chosen)} == kept


def test_another_sample_takes_the_place_of_one_that_cannot_be_read(
    taken: Callable[[str], list[Taken]],
) -> None:
    found = taken("aaaaabbbbb")
    first = [one for one in found if SampleChoice(found, 2).wants(one)]
    choice = SampleChoice(found, 2)
    chosen = []
    for one in found:
        if one == first[0]:
            choice.missed(one)
        elif choice.wants(one):
            chosen.append(one)
    assert [one.group for one in chosen] == ["a", "b"]
    assert chosen[1] == first[1]
