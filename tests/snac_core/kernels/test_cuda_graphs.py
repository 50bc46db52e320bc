"""Batches padded to few shapes, and which of them are captured.

A graph runs what was captured again, on the same places in memory. Where there is no GPU, a
function that is called again does: all else here is what a GPU runs.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from snac_core.errors import KernelsError
from snac_core.kernels import cuda_graphs
from snac_core.kernels.cuda_graphs import GraphedNetwork, rounded
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise
from tests.support.models import TINY, noise, random_codec, random_model

UNIT = TINY.pad_multiple


def again(run: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    """Stand in for a graph: leave what ``run`` gives where it was left the first time."""
    places = run()

    def replay() -> None:
        for place, made in zip(places, run(), strict=True):
            place.copy_(made)

    for place in places:
        place.zero_()  # A capture computes nothing.
    return replay, places


@pytest.fixture(scope="module")
def model() -> SNAC:
    return random_model(TINY).eval().requires_grad_(False).fold()


def batch(*units: int, seed: int = 0) -> tuple[Tensor, BatchContext]:
    """Return clips of these lengths, and past the end of each what nobody may read."""
    samples, own = max(units) * UNIT, torch.tensor(units) * UNIT
    audio = torch.from_numpy(noise(len(units) * samples, seed)).view(len(units), 1, samples)
    audio[torch.arange(samples) >= own[:, None, None]] = torch.nan
    seeds = torch.arange(len(units)) - 1
    return audio, BatchContext(samples, own, Noise(seeds, seeds.abs() * UNIT))


def check(network: GraphedNetwork, model: SNAC, audio: Tensor, context: BatchContext) -> None:
    """Check that a batch comes out as it does from the layers."""
    codes, expected = network.encode(audio, context), model.encode(audio, context)
    sound, written = network.decode(expected, context), model.decode(expected, context)
    assert [level.shape for level in codes] == [level.shape for level in expected]
    assert sound.shape == written.shape
    assert context.lengths is not None
    for item, own in enumerate(context.lengths.tolist()):
        for ours, theirs in zip(codes, expected, strict=True):
            count = theirs.shape[1] * own // context.samples
            assert torch.equal(ours[item, :count], theirs[item, :count])
        torch.testing.assert_close(sound[item, :, :own], written[item, :, :own], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_padded_batches_equal_the_layers_before_in_and_after_a_capture(model: SNAC) -> None:
    network = GraphedNetwork(model, again)
    # All of one shape, as nine frames become ten.
    for seed, units in enumerate([(9, 1, 5), (10, 2, 1), (9, 9, 9), (3, 9, 1)]):
        audio, context = batch(*units, seed=seed)
        check(network, model, audio, context)
        assert network.captures == (2 if seed else 0)
    audio, _ = batch(2)
    for ours, theirs in zip(network.encode(audio), model.encode(audio), strict=True):
        assert torch.equal(ours, theirs)
    codes = model.encode(audio)
    torch.testing.assert_close(network.decode(codes), model.decode(codes), rtol=0, atol=1e-5)
    assert network.captures == 2
    # Without noise it is another computation of the same shape.
    audio, context = batch(9, 1, 5)
    codes, silent = model.encode(audio, context), dataclasses.replace(context, noise="off")
    for captures in (2, 3):
        sound, written = network.decode(codes, silent), model.decode(codes, silent)
        torch.testing.assert_close(sound[0], written[0], rtol=0, atol=1e-5)
        assert network.captures == captures


@torch.inference_mode()
def test_what_a_batch_gave_stays_when_the_next_one_runs(model: SNAC) -> None:
    network = GraphedNetwork(model, again)
    first, context = batch(2, 1)
    second, _ = batch(2, 1, seed=1)
    network.encode(first, context)
    before = network.encode(first, context)
    kept = [level.clone() for level in before]
    after = network.encode(second, context)
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@torch.inference_mode()
def test_few_graphs_are_kept_and_what_is_dropped_is_freed(model: SNAC) -> None:
    places: list[weakref.ref[Tensor]] = []

    def noted(run: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        replay, outputs = again(run)
        places.append(weakref.ref(outputs[0]))
        return replay, outputs

    network = GraphedNetwork(model, noted, most=2)
    for units in (1, 2, 1, 3):  # The third keeps the first in use, so the second makes room.
        audio, context = batch(units)
        for _ in range(2):
            network.encode(audio, context)
    gc.collect()
    assert network.captures == 3
    assert [place() is None for place in places] == [False, True, False]
    network.encode(*batch(1))
    assert network.captures == 3
    network.encode(*batch(2))
    assert network.captures == 4


@torch.inference_mode()
def test_shapes_that_came_once_are_forgotten_in_time(model: SNAC) -> None:
    network = GraphedNetwork(model, again, most=1)
    for units in (1, 2, 3, 4, 5):
        network.encode(*batch(units))
    network.encode(*batch(1))
    assert network.captures == 0
    network.encode(*batch(1))
    assert network.captures == 1


@torch.inference_mode()
def test_a_large_batch_runs_as_it_is(model: SNAC) -> None:
    network = GraphedNetwork(model, again, seconds=8 * UNIT / TINY.sampling_rate)
    for units, captures in (((4, 3), 0), ((3, 2), 2)):
        for _ in range(2):
            check(network, model, *batch(*units))
        assert network.captures == captures


@torch.inference_mode()
def test_threads_get_their_own_results(model: SNAC) -> None:
    network = GraphedNetwork(model, again)
    wrong: list[int] = []

    def use(seed: int) -> None:
        audio, context = batch(1, seed=seed)
        with torch.inference_mode():
            expected = model.encode(audio, context)
            for _ in range(5):
                got = network.encode(audio, context)
                if not all(torch.equal(a, b) for a, b in zip(got, expected, strict=True)):
                    wrong.append(seed)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert network.captures == 1


def test_noise_that_no_graph_can_draw_is_refused(model: SNAC) -> None:
    with pytest.raises(ValueError, match="not 'random'"):
        GraphedNetwork(model, again).decode(
            [torch.zeros(1, count, dtype=torch.int64) for count in TINY.codes_per_frame],
            BatchContext(TINY.frame_samples, noise="random"),
        )


@given(st.integers(1, 10**9))
def test_sizes_are_rounded_up_by_a_quarter_at_most(number: int) -> None:
    assert number <= rounded(number) <= 1.25 * number
    assert rounded(rounded(number)) == rounded(number)
    # Three significant bits: four sizes for each power of two.
    assert rounded(number) % 2 ** max(0, rounded(number).bit_length() - 3) == 0


def test_without_triton_or_exact_products_it_does_not_start(
    model: SNAC, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "snac_core.kernels.gpu", None)
        with pytest.raises(KernelsError, match="Triton comes with"):
            cuda_graphs.graphed(model, device, torch.float32)
    pytest.importorskip("triton", reason="Triton is not there: it is for Linux")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KernelsError, match="'highest', not 'high'"):
            cuda_graphs.graphed(model, device, torch.float32)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, to capture on")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_codec_on_a_gpu_gives_the_same_captured_or_not(precision: str) -> None:
    fast, written = (
        random_codec(TINY, device="cuda", compile=compile, precision=precision)
        for compile in ("on", "off")
    )
    assert isinstance(fast.encoder, GraphedNetwork)
    assert isinstance(written.encoder, SNAC)
    waves = [noise(length, length) for length in (30_000, 500, 9_000)]
    expected = written.encode(waves)
    audio = written.decode(expected)
    for turn in range(3):
        got = fast.encode(waves)
        for ours, theirs in zip(got, expected, strict=True):
            for a, b in zip(ours.levels, theirs.levels, strict=True):
                np.testing.assert_array_equal(a, b)
        for sound, other in zip(fast.decode(expected), audio, strict=True):
            np.testing.assert_allclose(
                sound, other, rtol=0, atol=1e-5 if precision == "fp32" else 0.02
            )
        assert fast.encoder.captures == (2 if turn else 0)
