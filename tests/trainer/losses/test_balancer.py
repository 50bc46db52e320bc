from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trainer.halves import shared_counts
from trainer.errors import TrainerError
from trainer.losses.balancer import Balancer

BATCH, LENGTH = 3, 8
POSITIVE = st.floats(1e-3, 1e3)


def silent() -> Tensor:
    return torch.zeros(BATCH, 1, LENGTH, requires_grad=True)


def along(made: Tensor, axis: int, slope: float) -> Tensor:
    """Return a term whose gradient is ``slope`` at one sample of each segment, else 0."""
    return slope * made[..., axis].sum()


def shares(made: Tensor) -> list[float]:
    """Return, sample by sample, the sum over segments of the gradient's size."""
    assert made.grad is not None
    found: list[float] = made.grad.abs().sum(dim=(0, 1)).tolist()
    return found


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=LENGTH))
def test_a_terms_share_of_the_gradient_is_its_weight(pairs: list[tuple[float, float]]) -> None:
    weights = {str(axis): weight for axis, (weight, _) in enumerate(pairs)}
    balancer, made = Balancer(weights), silent()
    terms = {str(axis): along(made, axis, slope) for axis, (_, slope) in enumerate(pairs)}
    sizes = balancer.backward(terms, made)
    total = sum(weights.values())
    # Together as large as the weighted terms would be at most.
    whole = sum(BATCH * weight * slope for weight, slope in pairs)
    wanted = [whole * weight / total for weight in weights.values()]
    assert shares(made)[: len(pairs)] == pytest.approx(wanted, rel=1e-4)
    assert sizes == pytest.approx(
        {str(axis): BATCH * slope for axis, (_, slope) in enumerate(pairs)}, rel=1e-5
    )


def test_absent_terms_leave_their_share_to_the_others() -> None:
    balancer, made = Balancer({"l1": 1.0, "stft": 3.0, "feature": 4.0}), silent()
    balancer.backward({"l1": along(made, 0, 5.0), "stft": along(made, 1, 7.0)}, made)
    whole = BATCH * (1.0 * 5.0 + 3.0 * 7.0)
    assert shares(made)[:2] == pytest.approx([0.25 * whole, 0.75 * whole])


def test_sizes_are_a_running_mean() -> None:
    balancer = Balancer({"l1": 1.0, "stft": 1.0}, decay=0.9)
    for slope, mean in ((2.0, 2.0), (8.0, (0.9 * 2 + 8) / 1.9)):
        made = silent()
        balancer.backward({"l1": along(made, 0, slope), "stft": along(made, 1, 4.0)}, made)
        share = BATCH * (mean + 4.0) / 2
        assert shares(made)[:2] == pytest.approx([share * slope / mean, share])


def test_a_larger_batch_takes_no_larger_step() -> None:
    sums = []
    for batch in (1, 16):
        made = torch.zeros(batch, 1, LENGTH, requires_grad=True)
        terms = {"l1": along(made, 0, 3.0) / batch, "stft": along(made, 1, 5.0) / batch}
        Balancer({"l1": 1.0, "stft": 1.0}).backward(terms, made)
        sums.append(shares(made)[0])
    assert sums == pytest.approx([4.0, 4.0])


def test_what_does_not_hang_on_the_audio_keeps_its_own_scale() -> None:
    entries, made = torch.tensor([3.0, 4.0], requires_grad=True), silent()
    still = torch.tensor(7.0)
    terms = {"codebook": entries.square().sum(), "l1": along(made, 0, 5.0), "commitment": still}
    balancer = Balancer({"codebook": 0.5, "l1": 100.0, "commitment": 1.0})
    sizes = balancer.backward(terms, made, scale=0.25)
    assert sizes.keys() == {"l1"}
    assert entries.grad is not None
    torch.testing.assert_close(entries.grad, 0.25 * entries.detach())
    assert shares(made)[0] == pytest.approx(0.25 * 100.0 * BATCH * 5.0)


def test_gradients_reach_what_made_the_audio_once() -> None:
    gain = torch.tensor(2.0, requires_grad=True)
    noise = torch.ones(BATCH, 1, LENGTH)
    # The latent is on the way to the audio, and in a term of its own, as in a codec.
    latent = gain * noise
    made = latent.tanh()
    terms = {"l1": made.mean(), "commitment": latent.square().mean()}
    # The second term does nothing to the audio, and one term alone has nothing to balance.
    Balancer({"l1": 3.0, "commitment": 0.5}).backward(terms, made)
    wanted = 3.0 * (1 - math.tanh(2.0) ** 2) + 0.5 * 2 * 2.0
    assert gain.grad is not None
    assert float(gain.grad) == pytest.approx(wanted, rel=1e-5)


def test_silence_has_no_gradient_and_does_no_harm() -> None:
    balancer, made = Balancer({"l1": 1.0, "stft": 1.0}), silent()
    balancer.backward({"l1": made.abs().sum(), "stft": along(made, 1, 2.0)}, made)
    assert shares(made)[:2] == pytest.approx([0.0, BATCH * 1.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows_and_is_forgotten(bad: float) -> None:
    seen, unseen = (Balancer({"l1": 1.0, "stft": 1.0}, decay=0.9) for _ in range(2))
    for slope in (2.0, bad, 3.0):
        made, other = silent(), silent()
        sizes = seen.backward({"l1": along(made, 0, slope), "stft": along(made, 1, 1.0)}, made)
        assert made.grad is not None
        if not math.isfinite(slope):
            assert not made.grad.isfinite().all()
            assert not math.isfinite(sizes["l1"])
            continue
        unseen.backward({"l1": along(other, 0, slope), "stft": along(other, 1, 1.0)}, other)
        assert other.grad is not None
        assert torch.equal(made.grad, other.grad)


def test_it_goes_on_from_its_state() -> None:
    first, second = (Balancer({"l1": 1.0, "stft": 2.0}, decay=0.5) for _ in range(2))
    made = silent()
    first.backward({"l1": along(made, 0, 2.0), "stft": along(made, 1, 9.0)}, made)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    gradients = []
    for balancer in (first, second):
        made = silent()
        balancer.backward({"l1": along(made, 0, 5.0), "stft": along(made, 1, 1.0)}, made)
        gradients.append(shares(made))
    assert gradients[0] == gradients[1]
    assert first.state_dict() == second.state_dict()


def test_halves_of_a_batch_with_shared_sizes_are_the_whole() -> None:
    balancer = Balancer({"l1": 1.0, "stft": 2.0})
    audio = torch.linspace(-1, 1, 4 * LENGTH).reshape(4, 1, LENGTH)

    def gradient(part: slice) -> Tensor:
        made = audio[part].clone().requires_grad_()
        terms = {"l1": made.pow(4).mean(), "stft": made.cos().mean()}
        balancer.load_state_dict({"sums": {}, "counts": {}})
        balancer.backward(terms, made)
        assert made.grad is not None
        return made.grad

    whole = gradient(slice(0, 4))
    halves = shared_counts(balancer, [lambda: gradient(slice(0, 2)), lambda: gradient(slice(2, 4))])
    # The mean over two processes, each of which knows its own half.
    torch.testing.assert_close(torch.cat(halves) / 2, whole)


def test_a_term_without_a_weight_is_an_error() -> None:
    made = silent()
    with pytest.raises(TrainerError, match="weights for l1, none for loss"):
        Balancer({"l1": 1.0}).backward({"l1": along(made, 0, 1.0), "loss": made.sum()}, made)
    assert made.grad is None


def test_audio_in_bf16_is_mixed_in_fp32() -> None:
    made = torch.zeros(BATCH, 1, LENGTH, dtype=torch.bfloat16, requires_grad=True)
    audio = made.float()
    terms = {"l1": along(audio, 0, 1e-4), "stft": along(audio, 1, 1e4)}
    Balancer({"l1": 1.0, "stft": 3.0}).backward(terms, made)
    assert made.grad is not None
    assert made.grad.dtype == torch.bfloat16
    whole = BATCH * (1e-4 + 3e4)
    assert shares(made)[:2] == pytest.approx([0.25 * whole, 0.75 * whole], rel=0.01)
