from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from snac_core.config import SnacConfig
from snac_core.model.batch_context import BatchContext
from tests.support.models import TINY, random_model
from tests.trainer.conftest import everything_at_once, voice
from trainer import config as configuration
from trainer.model.compile import compile_units, uncompiled
from trainer.model.ema import Ema
from trainer.model.network import frozen, starting_model
from trainer.runtime.distributed import World
from trainer.training.batches import Batch
from trainer.training.learner import Learner

ALONE = World(torch.device("cpu"))
LENGTH = 4096


def batch(count: int, padded: bool = False) -> Batch:
    audio = torch.stack(
        [torch.from_numpy(voice(LENGTH / 24000, seed))[None] for seed in range(count)]
    )
    own = torch.ones_like(audio)
    if padded:
        for number in range(count):
            own[number, 0, LENGTH - 300 * number :] = 0
    return Batch(audio * own, own, torch.arange(count))


def learner(settings: dict[str, Any], **changes: Any) -> Learner:
    config = configuration.parse({**settings, **changes})
    torch.manual_seed(0)
    return Learner(config, starting_model(config)[0], ALONE)


def test_a_batch_in_parts_is_the_batch(settings: dict[str, Any]) -> None:
    changes = everything_at_once() | {"commitment_weight": 0.0}
    changes |= {"warmup_steps": 0, "discriminator_warmup_steps": 0, "mel_weight": 0.0}
    # What this term is divided by is a mean over what is computed together.
    changes |= {"feature_weight": 0.0}
    whole, parted = learner(settings, **changes), learner(settings, **changes, accumulate=2)
    for step in range(2):
        one = whole.step(batch(3), step, 9)
        other = parted.step(batch(3), step, 9)
        assert one is not None
        assert other is not None
        for terms in (one, other):
            del terms["feature"]
        assert other == pytest.approx(one, rel=1e-4)
    for a, b in zip(whole.model.parameters(), parted.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_parts_with_more_padding_count_less(settings: dict[str, Any]) -> None:
    # The mean over samples is that of the batch however they are divided.
    changes = {"l1_weight": 1.0, "stft_weight": 0.0}
    one = learner(settings, **changes).step(batch(4, padded=True), 0, 9)
    other = learner(settings, **changes, accumulate=4).step(batch(4, padded=True), 0, 9)
    assert one is not None
    assert other == pytest.approx(one, rel=1e-5)


def test_what_one_learner_saved_another_goes_on_from(settings: dict[str, Any]) -> None:
    changes = everything_at_once() | {"loss_balancer": True}
    first = learner(settings, **changes)
    for step in range(2):
        first.step(batch(2), step, 9)
    saved = copy.deepcopy((first.model.state_dict(), first.state_dict()))
    expected = first.step(batch(2), 2, 9)
    second = learner(settings, **changes)
    second.model.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    assert second.step(batch(2), 2, 9) == expected
    for a, b in zip(first.best_guess.parameters(), second.best_guess.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_average_is_what_it_says_and_leaves_what_is_frozen_bit_for_bit(
    settings: dict[str, Any],
) -> None:
    found = learner(settings, ema_decay=0.5)
    before = copy.deepcopy(found.model.state_dict())
    name = "decoder.model.0.bias"
    history = []
    for step in range(4):
        found.step(batch(2), step, 9)
        history.append(found.model.get_parameter(name).detach().clone())
    # The first weights are taken as they are; then 2/11, 3/12 and 4/13 of the average stay.
    expected = history[0]
    for number, value in enumerate(history[1:], 1):
        kept = (1 + number) / (10 + number)
        expected = kept * expected + (1 - kept) * value
    torch.testing.assert_close(found.best_guess.get_parameter(name).detach(), expected)
    for key, value in found.best_guess.state_dict().items():
        if not key.startswith("decoder."):
            assert torch.equal(value, before[key]), key


def test_the_average_reaches_its_decay() -> None:
    model = random_model(TINY)
    ema = Ema(model, 0.6)
    name = "decoder.model.0.bias"
    with torch.no_grad():
        for _ in range(30):
            model.get_parameter(name).fill_(0.0)
            ema.update(model)
        model.get_parameter(name).fill_(1.0)
        ema.update(model)
    torch.testing.assert_close(
        ema.model.get_parameter(name), torch.full_like(model.get_parameter(name), 0.4)
    )


# Dynamo looks at gradients of what is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_only_the_units_are_compiled_and_evaluation_runs_as_written() -> None:
    small = SnacConfig(
        encoder_dim=4, encoder_rates=(8,), decoder_dim=16, decoder_rates=(8,), vq_strides=(2, 1)
    )
    model = random_model(small)
    audio = torch.from_numpy(voice(small.pad_multiple * 4 / 24000, 1))[None, None]
    context = BatchContext(audio.shape[-1])
    plain = model(audio, context)
    names = set(model.state_dict())
    compiled: list[object] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    assert compile_units(model, backend) == 3 * 2
    assert set(model.state_dict()) == names
    with uncompiled(True):
        assert torch.equal(model(audio, context).audio, plain.audio)
    assert not compiled
    out = model(audio, context)
    assert len(compiled) == 3 * 2
    torch.testing.assert_close(out.audio, plain.audio, rtol=1e-4, atol=1e-5)


def test_entries_that_no_gradient_moves_ask_for_none(settings: dict[str, Any]) -> None:
    changes = {"freeze_encoder": False, "freeze_vq": False, "codebook_weight": 0.0}
    model = frozen(random_model(TINY), configuration.parse({**settings, **changes}))
    still = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert still == {f"quantizer.quantizers.{level}.codebook.weight" for level in range(3)}
