from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from trainer import config as configuration
from trainer.config import TrainConfig
from trainer.config.curriculum import EpochPlan, epochs, learning_rate, longest, plans
from trainer.errors import TrainerError

CONFIGS = Path(configuration.__file__).parents[1] / "configs"
LENGTHS = {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 3.0, 6: 3.0, 7: 4.0, 8: 4.0, 9: 4.0, 10: 4.0}


def plan(config: TrainConfig, epoch: int) -> EpochPlan:
    return epochs(config, lambda plan: 7)[epoch - 1].plan


@pytest.mark.parametrize(
    ("name", "batches"),
    [
        ("phase10_revolab_all", (96, 48, 28, 21)),
        ("phase10_curriculum", (192, 96, 64, 48)),
        ("phase10_combined", (192, 96, 64, 48)),
    ],
)
def test_the_published_table(name: str, batches: tuple[int, ...]) -> None:
    config = configuration.load(CONFIGS / f"{name}.json", ["num_epochs=25"])
    batch_of = dict(zip((1.0, 2.0, 3.0, 4.0), batches, strict=True))
    for epoch, length in LENGTHS.items():
        assert plan(config, epoch) == (length, batch_of[length])
    assert plan(config, 25) == plan(config, 10), "epochs past the end use the last entry"
    assert longest(config) == (4.0, batches[-1])


def test_without_a_curriculum_all_epochs_are_alike(settings: dict[str, Any]) -> None:
    config = configuration.parse(settings)
    assert plans(config) == [(0.17, 2)]


def test_a_single_number_is_one_epoch_and_gaps_belong_to_what_came_before(
    settings: dict[str, Any],
) -> None:
    stages = [
        {"epochs": 2, "length": 1.0},
        {"epochs": 4, "length": 3.0, "batch_multiplier": 0.01},
    ]
    config = configuration.parse({**settings, "curriculum": stages, "num_epochs": 5})
    assert [plan(config, epoch).length for epoch in range(1, 6)] == [1.0, 1.0, 1.0, 3.0, 3.0]
    assert plan(config, 4).batch == 1, "a batch is never empty"


def test_stages_that_count_steps_end_within_an_epoch(settings: dict[str, Any]) -> None:
    stages = [
        {"steps": 10, "length": 1.0, "batch_multiplier": 2.0},
        {"steps": 3, "length": 3.0},
    ]
    settings |= {"curriculum": stages, "num_epochs": 9}
    config = configuration.parse(settings)
    found = epochs(config, lambda plan: {4: 4, 2: 8}[plan.batch])
    assert found == [((1.0, 4), 1, 4), ((1.0, 4), 1, 4), ((1.0, 4), 1, 2), ((3.0, 2), 2, 3)]
    assert plans(config) == [(1.0, 4), (3.0, 2)]
    assert len(epochs(configuration.parse({**settings, "num_epochs": 2}), lambda _: 4)) == 2
    for wrong, said in (
        ({"length": 1.0}, "a stage has either epochs or steps"),
        ({"epochs": 1, "steps": 2, "length": 1.0}, "a stage has either epochs or steps"),
        ({"epochs": 1, "length": 1.0}, "must all have epochs, or all have steps"),
    ):
        with pytest.raises(TrainerError, match=said):
            configuration.parse({**settings, "curriculum": [*stages, wrong]})


def test_the_learning_rate_warms_up_and_follows_a_cosine(settings: dict[str, Any]) -> None:
    config = configuration.parse({**settings, "warmup_steps": 10, "lr_min_ratio": 0.2})
    rates = [learning_rate(config, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[60] == pytest.approx(0.6e-3), "half way down"
    assert rates[35] == pytest.approx(1e-3 * (0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2))
    assert rates[110] == pytest.approx(0.2e-3)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(config, 500, 110) == rates[110]
