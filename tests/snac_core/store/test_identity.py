from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from snac_core.errors import ModelError
from snac_core.store.identity import content_hash, token_space
from tests.support.models import TINY_8KHZ, random_weights

TINY = dataclasses.replace(TINY_8KHZ, encoder_rates=(2, 4), decoder_rates=(4, 2))


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights(TINY)


def old_weight_norm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    def renamed(key: str) -> str:
        key = key.replace("parametrizations.weight.original0", "weight_g")
        return key.replace("parametrizations.weight.original1", "weight_v")

    return {renamed(key): value for key, value in weights.items()}


def flip_lowest_bit(tensor: Tensor) -> Tensor:
    flipped = tensor.detach().clone()
    flipped.view(torch.int32).view(-1)[-1] ^= 1
    return flipped


def test_the_hash_of_known_weights_never_changes() -> None:
    # Stores and stored codes carry these hashes: another value here would orphan them all.
    known = {
        "quantizer.codebook.weight": torch.arange(6.0).reshape(2, 3),
        "encoder.conv.weight_g": torch.tensor([[0.5]]),
        "decoder.conv.bias": torch.tensor([-1.0]),
    }
    assert token_space(TINY, known) == "3b69028d2d41"
    assert content_hash(TINY, known) == "cf574d0f"


def test_forms_of_the_same_values_share_their_hashes(weights: dict[str, Tensor]) -> None:
    half = {key: value.half() for key, value in weights.items()}
    upcast = {key: value.float() for key, value in half.items()}
    backwards = dict(reversed(upcast.items()))
    older = old_weight_norm(upcast)
    strided = {
        key: value.t().contiguous().t() if value.ndim == 2 else value
        for key, value in upcast.items()
    }
    assert sum(key.endswith("weight_g") for key in older) > 10

    forms = [half, upcast, backwards, older, strided]
    assert len({token_space(TINY, form) for form in forms}) == 1
    assert len({content_hash(TINY, form) for form in forms}) == 1
    assert token_space(TINY, weights) != token_space(TINY, half)


def test_one_bit_decides(weights: dict[str, Tensor]) -> None:
    space, content = token_space(TINY, weights), content_hash(TINY, weights)
    seen = {content}
    for key, value in weights.items():
        changed = {**weights, key: flip_lowest_bit(value)}
        kept = token_space(TINY, changed) == space
        assert kept == key.startswith("decoder."), key
        seen.add(content_hash(TINY, changed))
    assert len(seen) == len(weights) + 1


def test_swapped_weights_are_others(weights: dict[str, Tensor]) -> None:
    first, second = "encoder.block.1.block.0.block.0.alpha", "encoder.block.1.block.3.alpha"
    changed = {**weights, first: weights[first] + 1}
    swapped = {**changed, first: changed[second], second: changed[first]}
    assert token_space(TINY, swapped) != token_space(TINY, changed)


@pytest.mark.parametrize(
    ("change", "keeps_space"),
    [
        ({"sampling_rate": 16000}, False),
        ({"attn_window_size": 32}, False),
        ({"codebook_size": 128}, False),
        ({"codebook_dim": 8}, False),
        ({"vq_strides": (4, 1)}, False),
        ({"depthwise": False}, False),
        ({"encoder_dim": 8}, False),
        ({"encoder_rates": (4, 2)}, False),
        ({"decoder_dim": 32}, True),
        ({"decoder_rates": (2, 4)}, True),
        ({"noise": False}, True),
    ],
)
def test_configuration_that_shapes_codes_counts(
    weights: dict[str, Tensor], change: dict[str, Any], keeps_space: bool
) -> None:
    base = dataclasses.replace(TINY, encoder_dim=16, decoder_dim=64)
    changed = dataclasses.replace(base, **change)
    assert (token_space(changed, weights) == token_space(base, weights)) == keeps_space
    assert content_hash(changed, weights) != content_hash(base, weights)


def test_a_latent_dim_spelled_out_is_the_same_model(weights: dict[str, Tensor]) -> None:
    spelled = dataclasses.replace(TINY, latent_dim=16)
    assert token_space(spelled, weights) == token_space(TINY, weights)
    assert content_hash(spelled, weights) == content_hash(TINY, weights)


def test_what_is_not_a_weight_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'encoder\.step'.*int64"):
        token_space(TINY, {"encoder.step": torch.tensor([3])})
