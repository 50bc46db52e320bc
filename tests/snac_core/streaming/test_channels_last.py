"""Channels-last streams compared with streams of the layers as written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.kernels import cpu
from snac_core.kernels.cpu import CpuKernels
from snac_core.kernels.interface import Snake, UnitState, UnitWeights, Workspace
from snac_core.kernels.network import ChannelsLastNetwork
from snac_core.model.noise import MaskedNoise, Noise
from snac_core.streaming.channels_last import ChannelsFirst, ChannelsLastStreaming
from snac_core.streaming.layers import StreamingNetwork
from snac_core.streaming.network import Direction, StreamNetwork
from snac_core.streaming.state import OPEN
from snac_core.types import Precision
from tests.support.models import TINY, TINY_ATTENTION, random_codec

CONFIGS = {
    "24khz": TINY,
    "32khz": TINY_ATTENTION,
    # Channels that no vector divides, and an odd change of rate.
    "wide": SnacConfig(
        encoder_dim=24, decoder_dim=96, encoder_rates=(2, 3), decoder_rates=(3, 2), vq_strides=(2,)
    ),
    "full": SnacConfig(encoder_dim=8, decoder_dim=32, depthwise=False),
    # Fewer positions in a step than any layer but the first remembers.
    "short": dataclasses.replace(TINY, encoder_rates=(3, 2), decoder_rates=(2, 3), vq_strides=(1,)),
}


@pytest.fixture(scope="module")
def compiled() -> CpuKernels:
    found = cpu.kernels("on")
    assert found is not None
    return found


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["decode", "encode"])
def direction(request: pytest.FixtureRequest) -> Direction:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=list(CONFIGS.values()), ids=list(CONFIGS))
def networks(
    request: pytest.FixtureRequest, direction: Direction
) -> tuple[StreamNetwork, StreamNetwork, SnacConfig]:
    """The same network channels-last and as its layers are written."""
    codecs = random_codec(request.param), random_codec(request.param, compile="off")
    ours, theirs = (StreamNetwork(codec.networks, direction) for codec in codecs)
    assert isinstance(ours.layers, ChannelsLastStreaming)
    assert isinstance(theirs.layers, StreamingNetwork)
    return ours, theirs, request.param


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
@torch.inference_mode()
def test_rows_equal_the_layers(
    networks: tuple[StreamNetwork, StreamNetwork, SnacConfig],
    direction: Direction,
    threads: int,
    data: st.DataObject,
) -> None:
    """Of streams that start and end as they like, wherever the others of a batch stand."""
    *both, config = networks
    decoding, step = direction == "decode", config.pad_multiple
    channels, unit = (config.latent_channels, config.hop) if decoding else (1, 1)
    made = 1 if decoding else config.hop
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), label="seed"))
    ends = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4), label="steps of clips")
    pool = [[network.pool.acquire() for _ in ends] for network in both]
    for network, slots in zip(both, pool, strict=True):
        # The remains of other clips.
        old = torch.full_like(network.pool.read(torch.tensor(slots)), 3.0)
        network.pool.write(torch.tensor(slots), old)
    taken = [0] * len(ends)
    for _ in range(data.draw(st.integers(4, 9), label="turns")):
        chosen = sorted(data.draw(st.sets(st.sampled_from(range(len(ends))), min_size=1)))
        x = torch.randn(len(chosen), channels, step // unit, generator=generator)
        noise = _noise(data.draw(st.sampled_from(["off", "on", "muted"])), chosen)
        now = [taken[index] * step for index in chosen]
        known = [ends[index] * step if taken[index] >= ends[index] else OPEN for index in chosen]
        outs = []
        for network, slots in zip(both, pool, strict=True):
            mine = torch.tensor([slots[index] for index in chosen])
            context = network.context(now, known, step, noise, network.pool.read(mine))
            outs.append(network.layers.run(x, context))
            network.pool.write(mine, context.after)
        ours, theirs = outs
        assert ours.shape == theirs.shape == (len(chosen), theirs.shape[1], step // made)
        for item, index in enumerate(chosen):
            # What the layers say of positions outside of the clip means nothing.
            first = (now[item] - both[0].delay) // made
            inside = slice(max(0, -first), max(0, min(step, known[item]) // made - max(0, first)))
            torch.testing.assert_close(
                ours[item, :, inside], theirs[item, :, inside], rtol=1e-4, atol=1e-5
            )
            taken[index] += 1
    for network, slots in zip(both, pool, strict=True):
        for slot in slots:
            network.pool.release(slot)


def _noise(mode: str, chosen: list[int]) -> Noise | str:
    if mode == "off":
        return "off"
    seeds, nowhere = torch.tensor(chosen), torch.zeros(len(chosen), dtype=torch.int64)
    return MaskedNoise(seeds, nowhere, seeds % 2) if mode == "muted" else Noise(seeds, nowhere)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    streams=st.integers(1, 5),
    length=st.integers(1, 150),
    calls=st.integers(1, 6),
    channels=st.sampled_from([1, 7, 8, 20, 64, 1024]),
    dilation=st.sampled_from([1, 3, 9]),
)
def test_a_late_unit_is_that_of_the_whole(
    compiled: CpuKernels,
    threads: int,
    streams: int,
    length: int,
    calls: int,
    channels: int,
    dilation: int,
) -> None:
    """However its rows are cut into calls, and calls into tiles of some or many streams."""
    weights = _unit_weights(channels, dilation)
    whole = torch.randn(streams, calls * length, channels)
    late = 3 * dilation
    # Something else lies before, between and after what is remembered.
    active, skip = 5, 5 + 2 * late * channels + 3
    before = torch.full((streams, skip + late * channels + 2), torch.nan)
    before[:, active : skip - 3] = 0.0
    before[:, skip:-2] = 0.0
    parts, workspace = [], Workspace()
    for x in whole.chunk(calls, dim=1):
        after = torch.full_like(before, torch.nan)
        state = UnitState(before, after, active, skip)
        parts.append(compiled.streaming_unit(x.contiguous(), weights, state, workspace).clone())
        assert torch.equal(after.isnan(), before.isnan())
        before = after
    got = torch.cat(parts, dim=1)[:, late:]
    for stream, x in zip(got, whole, strict=True):
        expected = compiled.unit(x, weights, Workspace())[: len(stream)]
        torch.testing.assert_close(stream, expected, rtol=1e-5, atol=1e-5)


def _unit_weights(channels: int, dilation: int) -> UnitWeights:
    def snake() -> Snake:
        alpha = 0.5 + torch.rand(channels)
        return Snake(alpha, alpha.reciprocal())

    def bias() -> Tensor:
        return torch.randn(channels)

    taps, mix = torch.randn(7, channels) / 7, torch.randn(channels, channels) / channels
    return UnitWeights(dilation, snake(), taps, bias(), snake(), mix, bias())


@pytest.mark.parametrize(("precision", "decodes_in_rows"), [("fp32", True), ("bf16", False)])
def test_streams_are_in_rows_where_whole_clips_are(
    precision: Precision, decodes_in_rows: bool
) -> None:
    def layers(direction: Direction, **options: Any) -> StreamingNetwork | ChannelsLastStreaming:
        codec = random_codec(TINY, precision=precision, **options)
        return StreamNetwork(codec.networks, direction).layers

    assert isinstance(layers("encode"), ChannelsLastStreaming)
    assert isinstance(layers("decode"), ChannelsLastStreaming) is decodes_in_rows
    assert isinstance(layers("decode", compile="off"), StreamingNetwork)
    assert isinstance(layers("encode", device="meta"), StreamingNetwork)


def test_nearly_every_layer_is_in_rows_and_reads_the_weights_of_whole_clips() -> None:
    """What is counted in place of time: no large layer is left, and no weight is copied again."""
    codec = random_codec(TINY)
    assert isinstance(codec.encoder, ChannelsLastNetwork)
    copies = dict(codec.encoder.weights._made)
    left: list[str] = []
    directions: tuple[Direction, ...] = ("encode", "decode")
    for direction in directions:
        network = StreamNetwork(codec.networks, direction)
        assert isinstance(network.layers, ChannelsLastStreaming)
        written = [
            form._layer for form in network.layers._layers if isinstance(form, ChannelsFirst)
        ]
        left += [type(getattr(layer, "module", layer)).__name__ for layer in written]
    # The latent's depth-wise convolutions, what makes up whole frames, and the last step.
    assert sorted(left) == ["Conv1d", "Conv1d", "Delay", "Tanh"]
    # But for one layer, which whole clips leave as it is written.
    new = codec.encoder.weights._made.keys() - copies.keys()
    assert [type(module).__name__ for module in new] == ["Conv1d"]
