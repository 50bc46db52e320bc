"""The kernels of training: their gradients, and the layers as they are written."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from snac_core.kernels.training import TrainingKernels, UnitWeights, training_kernels
from snac_core.model.batch_context import BatchContext
from snac_core.model.layers import ResidualUnit, Snake1d

Check = Callable[..., bool]


@pytest.fixture(scope="module")
def kernels() -> TrainingKernels:
    found = training_kernels("on")
    assert found is not None
    return found


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def weights(channels: int) -> UnitWeights:
    """Return random ones, whose gradients are wanted."""
    alpha = 0.5 + random(channels).abs()
    made = UnitWeights(
        *(alpha, random(7, channels), random(channels)),
        *(alpha.flip(0), random(channels, channels), random(channels, seed=1)),
    )
    return UnitWeights(*(weight.requires_grad_() for weight in made))


def parameters(unit: ResidualUnit) -> UnitWeights:
    first, wide, second, mix = unit.block
    return UnitWeights(
        *(first.alpha.flatten(), wide.weight[:, 0].t(), wide.bias),  # type: ignore[operator, index, arg-type]
        *(second.alpha.flatten(), mix.weight[..., 0], mix.bias),  # type: ignore[operator, index, arg-type]
    )


# Fewer positions than the kernel reaches, and channels that no vector divides; of more than a few,
# products of the Jacobian with random vectors.
@pytest.mark.parametrize(("channels", "length", "dilation"), [(2, 5, 1), (8, 25, 3), (5, 24, 9)])
def test_gradients_are_those_of_the_values(
    channels: int, length: int, dilation: int, kernels: TrainingKernels
) -> None:
    x = random(2, length, channels, seed=2).requires_grad_()
    ends, unit = torch.tensor([length, length // 2]), weights(channels)
    noise = random(2, length)
    check: Check = functools.partial(torch.autograd.gradcheck, fast_mode=channels > 2)
    assert check(lambda x, *w: kernels.unit(x, ends, dilation, UnitWeights(*w)), (x, *unit))
    assert check(lambda x, alpha: kernels.snake(x, alpha, ends, 2, 3), (x, unit.alpha1))
    assert check(lambda x, mix: kernels.noise(x, noise, mix), (x, unit.mix))


# Items of several tiles, of one, and of less than a dilation.
SHAPES = [(16, 5000, 3), (24, 3001, 9), (20, 300, 1), (384, 94, 9), (48, 5, 9)]


@pytest.mark.parametrize(("channels", "length", "dilation"), SHAPES)
def test_a_residual_unit_is_the_layer_past_its_end_as_well(
    channels: int, length: int, dilation: int, kernels: TrainingKernels
) -> None:
    torch.manual_seed(0)
    unit = ResidualUnit(channels, dilation, depthwise=True)
    with torch.no_grad():
        for weight in unit.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    valid = torch.tensor([length, length // 2, 0])
    x, slope = torch.randn(3, channels, length), torch.randn(3, channels, length)

    def gradients(made: Tensor, x: Tensor) -> list[Tensor]:
        return [made.detach(), *torch.autograd.grad(made, (x, *unit.parameters()), slope)]

    x.requires_grad_()
    written = gradients(unit(x, BatchContext(length, valid)), x)
    rows = x.transpose(1, 2)
    ours = gradients(kernels.unit(rows, valid, dilation, parameters(unit)).transpose(1, 2), x)
    for one, other in zip(ours, written, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5 * float(other.abs().max()))


@pytest.mark.parametrize("scale", [1.0, 300.0, 9_000.0, 1e6])
def test_the_activation_and_its_slopes_hold_for_any_argument(
    scale: float, kernels: TrainingKernels
) -> None:
    """Against the formula in double precision, at the angles that floats make."""
    x, snake = scale * random(1, 400, 53).float(), Snake1d(53).double()
    alpha = (0.5 + random(53).abs()).float()
    snake.alpha.data = alpha.double()[:, None].expand(1, 53, 1).clone()
    ours_x, ours_alpha = x.clone().requires_grad_(), alpha.clone().requires_grad_()
    ours = kernels.snake(ours_x, ours_alpha, torch.tensor([400]), 0, 0)
    by_x, by_alpha = torch.autograd.grad(ours.sum(), (ours_x, ours_alpha))
    angle = (alpha * x).double()
    exact = x.double() + angle.sin().square() / alpha.double()
    assert ((ours - exact).abs() <= 2.0**-24 * exact.abs() + 2.0**-20).all()
    torch.testing.assert_close(by_x.double(), 1 + (2 * angle).sin(), rtol=0, atol=2.0**-20)
    slopes = (x.double() * (2 * angle).sin() - angle.sin().square() / alpha) / alpha
    bound = 2.0**-20 * float(slopes.abs().sum(1).max())
    torch.testing.assert_close(by_alpha.double(), slopes.sum((0, 1)), rtol=0, atol=bound)


def test_no_result_depends_on_the_threads(kernels: TrainingKernels) -> None:
    x, unit = random(3, 4000, 24, seed=2).float(), weights(24)
    unit = UnitWeights(*(weight.detach().float().requires_grad_() for weight in unit))
    noise, ends = random(3, 4000).float(), torch.tensor([4000, 2500, 100])

    def all_of_it() -> list[Tensor]:
        rows = x.clone().requires_grad_()
        made = kernels.unit(kernels.noise(rows, noise, unit.mix), ends, 9, unit)
        made = kernels.snake(made, unit.alpha2, ends, 1, 2)
        return [made, *torch.autograd.grad(made.square().sum(), (rows, *unit))]

    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(all_of_it())
    finally:
        torch.set_num_threads(before)
    for one, other in itertools.pairwise(results):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_items_that_lie_apart_in_memory_are_read_where_they_are(kernels: TrainingKernels) -> None:
    x, noise, mix = random(2, 9, 4), random(2, 7), random(4, 4)
    part = x[:, 1:8]
    assert torch.equal(kernels.noise(part, noise, mix), kernels.noise(part.clone(), noise, mix))
    expected = part + noise[..., None] * (part @ mix.t())
    torch.testing.assert_close(kernels.noise(part, noise, mix), expected)


def test_what_is_not_a_number_stays_so(kernels: TrainingKernels) -> None:
    x = torch.zeros(1, 3, 20)
    x[0, 1, 7], x[0, 2, 3] = torch.nan, torch.inf
    made = kernels.snake(x, torch.ones(20), torch.tensor([3]), 0, 0)
    assert made[0].isnan().nonzero().tolist() == [[1, 7], [2, 3]]


def test_what_the_kernels_cannot_read_is_refused(kernels: TrainingKernels) -> None:
    ends = torch.tensor([3])
    for x, alpha in (
        (torch.zeros(1, 3, 4), torch.ones(4).double()),
        (torch.zeros(1, 3, 4, device="meta"), torch.ones(4)),
        (torch.zeros(1, 3, 4).half(), torch.ones(4).half()),
    ):
        with pytest.raises(ValueError, match=r"take torch\.float32 or torch\.float64 on the CPU"):
            kernels.snake(x, alpha, ends, 0, 0)
