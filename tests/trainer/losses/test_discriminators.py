from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.trainer.conftest import voice
from tests.trainer.halves import shared_counts
from trainer import config as configuration
from trainer.config import TrainConfig
from trainer.losses.discriminators import Discriminators, PeriodDiscriminator, SpectralDiscriminator

SMALL = {
    "adversarial_weight": 1.0,
    "feature_weight": 2.0,
    "discriminator_periods": [2, 3],
    "discriminator_period_channels": [4, 8, 8],
    "discriminator_n_ffts": [256, 512],
    "discriminator_fft_channels": 4,
}
LENGTH = 1500


@pytest.fixture
def config(settings: dict[str, Any]) -> TrainConfig:
    return configuration.parse({**settings, **SMALL})


def build(config: TrainConfig, **options: Any) -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(config, **options)


def voices(count: int = 3, first: int = 0, samples: int = LENGTH) -> Tensor:
    each = [voice(1.0, first + number)[-samples:] for number in range(count)]
    return torch.from_numpy(np.stack(each))[:, None]


def noises(count: int = 3, seed: int = 0, samples: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(count, 1, samples, generator=generator)


def everything(
    discriminators: Discriminators, made: Tensor, real: Tensor, own: Tensor
) -> dict[str, Tensor]:
    return {"loss": discriminators.loss(made, real, own)} | discriminators.generator_terms(
        made, real, own
    )


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=2e-5, atol=1e-7, msg=name)


def test_rows_of_a_period_keep_their_columns() -> None:
    discriminator = PeriodDiscriminator(5, (4, 8, 16))
    audio = noises(2, samples=1003).requires_grad_()
    *layers, score = discriminator(audio, torch.tensor([1003, 1003]))
    # 201 rows, then a third twice; the last layer has no stride.
    assert [tuple(layer.values.shape) for layer in layers] == [
        *((2, 4, 67, 5), (2, 8, 23, 5), (2, 16, 23, 5))
    ]
    assert score.values.shape == (2, 1, 23, 5)
    (gradient,) = torch.autograd.grad(score.values[..., 2].sum(), audio)
    moved = gradient.flatten(1).any(0).nonzero().flatten()
    assert len(moved)
    assert (moved % 5 == 2).all()


def test_a_spectrum_is_judged_in_five_bands() -> None:
    discriminator = SpectralDiscriminator(256, 4)
    *layers, score = discriminator(noises(2, samples=1024), torch.tensor([1024, 1024]))
    assert len(layers) == 5 * 5
    # 129 bins, divided at 12, 32, 64 and 96; 17 frames.
    assert [layer.values.shape for layer in layers[::5]] == [
        (2, 4, 17, bins) for bins in (12, 20, 32, 32, 33)
    ]
    assert score.values.shape == (2, 1, 17, 2 + 3 + 4 + 4 + 5)


def test_the_phase_of_a_spectrum_is_seen() -> None:
    torch.manual_seed(0)
    discriminator = SpectralDiscriminator(256, 4)
    audio, ends = noises(1, samples=1024), torch.tensor([1024])
    turned = discriminator(-audio, ends)[-1].values
    assert not torch.allclose(turned, discriminator(audio, ends)[-1].values)


def test_each_side_learns_from_its_own_loss_alone(config: TrainConfig) -> None:
    discriminators = build(config)
    made, real = noises().requires_grad_(), voices()
    own = torch.ones_like(real)
    torch.autograd.backward(
        sum(discriminators.generator_terms(made, real, own).values(), torch.zeros(()))
    )
    assert made.grad is not None
    assert made.grad.flatten(1).any(1).all()
    assert all(weight.grad is None for weight in discriminators.parameters())
    made.grad = None
    torch.autograd.backward(discriminators(made, real, own))
    assert made.grad is None
    for name, weight in discriminators.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.any(), name


def test_terms_by_hand(config: TrainConfig) -> None:
    discriminators = build(config)
    made, real = noises(), voices()
    ends = torch.full((len(real),), LENGTH)
    outputs = [(one(made, ends), one(real, ends)) for one in discriminators.discriminators]
    told, fooled, features = [], [], []
    for on_made, on_real in outputs:
        fooled.append((on_made[-1].values - 1).square().mean())
        told.append(on_made[-1].values.square().mean() + (on_real[-1].values - 1).square().mean())
        distances = [
            (a.values - b.values).abs().mean() / b.values.abs().mean()
            for a, b in zip(on_made[:-1], on_real[:-1], strict=True)
        ]
        features.append(torch.stack(distances).mean())
    wanted = {"loss": told, "adversarial": fooled, "feature": features}
    found = everything(discriminators, made, real, torch.ones_like(real))
    for name, parts in wanted.items():
        torch.testing.assert_close(found[name], torch.stack(parts).mean(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("samples", [64, 333, 1000])
def test_padding_counts_for_nothing(config: TrainConfig, samples: int) -> None:
    discriminators = build(config)
    made, real = noises(2, samples=samples), voices(2, samples=samples)
    alone = everything(discriminators, made, real, torch.ones_like(real))
    room = LENGTH - samples
    # What a codec makes of padding is no silence.
    noisy = torch.cat([made, noises(2, 1, room)], dim=-1)
    own = F.pad(torch.ones_like(real), (0, room))
    assert_same(everything(discriminators, noisy, F.pad(real, (0, room)), own), alone)


def test_a_segment_without_a_recording_counts_for_nothing(config: TrainConfig) -> None:
    discriminators = build(config)
    made, real, own = noises(), voices(), torch.ones(3, 1, LENGTH)
    without = everything(discriminators, made[:2], real[:2], own[:2])
    own[2] = 0
    assert_same(everything(discriminators, made, real, own), without)
    nothing = everything(discriminators, made, real, torch.zeros_like(own))
    assert {float(value.detach()) for value in nothing.values()} == {0.0}


def test_halves_of_a_batch_with_shared_counts_are_the_whole(config: TrainConfig) -> None:
    discriminators = build(config)
    made, real = noises(4), voices(4)
    own = torch.ones_like(real)
    for item, samples in enumerate((1500, 900, 340, 77)):
        own[item, :, samples:] = 0
    halves = [slice(0, 2), slice(2, 4)]

    def check(whole: Tensor, parts: list[Tensor], moved: list[Tensor]) -> None:
        mean = torch.stack(parts).mean()
        torch.testing.assert_close(mean, whole, rtol=1e-5, atol=1e-7)
        for one, other in zip(
            torch.autograd.grad(mean, moved), torch.autograd.grad(whole, moved), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)

    def halved(of: Callable[[slice], Tensor]) -> list[Tensor]:
        return shared_counts(discriminators, [partial(of, half) for half in halves])

    def told(part: slice = slice(None)) -> Tensor:
        return discriminators.loss(made[part], real[part], own[part])

    check(told(), halved(told), list(discriminators.parameters()))
    made.requires_grad_()
    for name in ("adversarial", "feature"):

        def term(part: slice = slice(None), name: str = name) -> Tensor:
            return discriminators.generator_terms(made[part], real[part], own[part])[name]

        check(term(), halved(term), [made])


def test_equal_signals_have_equal_features(config: TrainConfig) -> None:
    real = voices()
    own = torch.ones_like(real)
    assert build(config).generator_terms(real, real, own)["feature"] == 0
    assert build(config).generator_terms(0.9 * real, real, own)["feature"] > 0


def test_discriminators_learn_and_teach(settings: dict[str, Any]) -> None:
    few = {"discriminator_n_ffts": [256], "discriminator_period_channels": [8, 16, 16]}
    discriminators = build(configuration.parse({**settings, **SMALL, **few}))
    recordings, unseen = 4 * voices(20, samples=1024), 4 * voices(4, first=500, samples=1024)
    own = torch.ones_like(unseen)
    # Speech that has lost its low end, which is something to tell it by.
    codec = nn.Conv1d(1, 1, 15, padding=7, bias=False)
    with torch.no_grad():
        codec.weight.zero_()
        codec.weight[0, 0, 7:9] = torch.tensor([1.0, -0.9])

    def measured() -> dict[str, Tensor]:
        with torch.no_grad():
            return everything(discriminators, codec(unseen), unseen, own)

    optimizer = torch.optim.Adam(discriminators.parameters(), 3e-3, (0.8, 0.99))
    for step in range(45):
        real = recordings[4 * (step % 5) :][:4]
        optimizer.zero_grad()
        torch.autograd.backward(discriminators.loss(codec(real), real, own))
        optimizer.step()
    learned = measured()
    # Whoever gives everything the same score has a loss of 0.5 at best.
    assert learned["loss"] < 0.3
    assert learned["adversarial"] > 0.5

    teacher = {name: weight.clone() for name, weight in discriminators.state_dict().items()}
    optimizer = torch.optim.Adam(codec.parameters(), 3e-2)
    for step in range(20):
        real = recordings[4 * (step % 5) :][:4]
        optimizer.zero_grad()
        torch.autograd.backward(
            discriminators.generator_terms(codec(real), real, own)["adversarial"]
        )
        optimizer.step()
    taught = measured()
    assert taught["adversarial"] < 0.5 * learned["adversarial"]
    assert taught["feature"] < learned["feature"]
    for name, weight in discriminators.state_dict().items():
        assert torch.equal(weight, teacher[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("loud", [(0, 0), (0, 1), (1, 0)])
def test_silence_is_finite(
    settings: dict[str, Any], precision: str, loud: tuple[float, float]
) -> None:
    discriminators = build(configuration.parse({**settings, **SMALL, "precision": precision}))
    made, real = loud[0] * noises().sign(), loud[1] * noises(seed=1).sign()
    made.requires_grad_()
    own = torch.ones_like(real)
    total = torch.stack(list(everything(discriminators, made, real, own).values())).sum()
    torch.autograd.backward(total)
    assert total.isfinite()
    for tensor in (made, *discriminators.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_bf16_is_fp32_but_for_rounding(settings: dict[str, Any], config: TrainConfig) -> None:
    half = build(configuration.parse({**settings, **SMALL, "precision": "bf16"}))
    made, real = noises(), voices()
    own = torch.ones_like(real)
    kinds = {layer.values.dtype for layer in half._layers(real, own)[0]}
    assert kinds == {torch.bfloat16}
    exact = everything(build(config), made, real, own)
    for one in (everything(half, made, real, own), _in_autocast(half, made, real, own)):
        for name, value in exact.items():
            assert one[name].dtype == torch.float32
            torch.testing.assert_close(one[name], value, rtol=0.03, atol=0, msg=name)


def _in_autocast(
    discriminators: Discriminators, made: Tensor, real: Tensor, own: Tensor
) -> dict[str, Tensor]:
    # The order of a step's two halves must not matter to what autocast remembers.
    with torch.autocast("cpu", torch.bfloat16):
        terms = discriminators.generator_terms(made, real, own)
        loss = discriminators.loss(made, real, own)
    torch.autograd.backward(loss)
    assert all(weight.grad is not None for weight in discriminators.parameters())
    return {"loss": loss, **terms}


def test_warm_up(settings: dict[str, Any], config: TrainConfig) -> None:
    assert build(config).teaches(0)
    discriminators = build(
        configuration.parse({**settings, **SMALL, "discriminator_warmup_steps": 3})
    )
    assert [discriminators.teaches(step) for step in range(5)] == [False, False, False, True, True]


def test_without_their_weights_there_are_no_discriminators(settings: dict[str, Any]) -> None:
    assert not configuration.parse(settings).adversarial
    for key in ("adversarial_weight", "feature_weight"):
        assert configuration.parse({**settings, key: 0.1}).adversarial


def test_the_least_that_is_allowed_works(settings: dict[str, Any]) -> None:
    least = {
        **{"discriminator_periods": [1], "discriminator_period_channels": [1]},
        **{"discriminator_n_ffts": [256], "discriminator_fft_channels": 1},
    }
    discriminators = build(configuration.parse({**settings, **SMALL, **least}))
    made = noises(1, samples=1)
    assert all(
        value.isfinite()
        for value in everything(discriminators, made, -made, torch.ones_like(made)).values()
    )


@pytest.mark.parametrize("key", ["discriminator_periods", "discriminator_n_ffts"])
def test_one_kind_may_do_without_the_other(key: str, settings: dict[str, Any]) -> None:
    discriminators = build(configuration.parse({**settings, **SMALL, key: []}))
    assert len(discriminators.discriminators) == 2
    terms = everything(discriminators, noises(), voices(), torch.ones(3, 1, LENGTH))
    assert all(0 < value < math.inf for value in terms.values())
