"""What is computed in the middle of something else comes out as if alone, and so does the other."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from snac_core.codec import Codec
from snac_core.store.identity import token_space
from snac_core.types import Precision
from tests.support.models import TINY, noise, random_model


def codec(precision: Precision = "fp32") -> Codec:
    model = random_model(TINY)
    space = token_space(TINY, model.state_dict())
    return Codec(model, version="test", token_space=space, precision=precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_come_out_as_if_alone(precision: Precision) -> None:
    one = codec(precision)
    long, short = noise(5 * 24000, 1), noise(3000, 2)
    (long_codes,), (short_codes,) = one.encode([long]), one.encode([short])
    (long_audio,), (short_audio,) = one.decode([long_codes]), one.decode([short_codes])
    between: list[bool] = []

    def preempt() -> None:
        same_codes = one.encode([short])[0] == short_codes
        between.append(same_codes and np.array_equal(one.decode([short_codes])[0], short_audio))

    with one.preemptible(preempt):
        assert one.encode([long]) == [long_codes]
        encoding = len(between)
        assert np.array_equal(one.decode([long_codes])[0], long_audio)
    assert len(between) > encoding > 10
    assert all(between)
    count = len(between)
    one.encode([short])
    assert len(between) == count


def test_another_thread_is_not_held_up() -> None:
    one = codec()
    callers: set[int] = set()
    with one.preemptible(lambda: callers.add(threading.get_ident())):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(one.encode, [noise(24000)]).result(60)
        assert not callers
        one.encode([noise(24000)])
    assert callers == {threading.get_ident()}


def test_it_ends_with_the_block_even_when_it_fails() -> None:
    one = codec()

    def fail() -> None:
        raise LookupError("somebody else's trouble")

    with pytest.raises(LookupError), one.preemptible(fail):
        one.encode([noise(24000)])
    one.encode([noise(24000)])


def test_a_model_is_freed_without_the_collector() -> None:
    one = codec()
    with one.preemptible(lambda: None):
        one.encode([noise(24000)])
    gc.disable()
    try:
        model = weakref.ref(one.model)
        del one
        assert model() is None
    finally:
        gc.enable()
