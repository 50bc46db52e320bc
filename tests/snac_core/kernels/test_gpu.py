"""The way of a GPU against the layers as they are written.

Without a GPU the same kernels run in Triton's interpreter, on tensors of the CPU, which takes a
tenth of a second for what a GPU does in microseconds. So models and signals are tiny here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.kernels import packing
from snac_core.kernels.interface import Snake
from snac_core.kernels.network import ChannelsLastNetwork
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.layers import ResidualUnit
from snac_core.model.noise import Noise
from tests.support.models import random_model

pytest.importorskip("triton", reason="Triton is not there: it is for Linux")

from snac_core.kernels import gpu
from snac_core.kernels.gpu import TritonBackend

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = SnacConfig(
    encoder_dim=16,
    encoder_rates=(3, 2),
    decoder_dim=64,
    decoder_rates=(2, 3),
    attn_window_size=2,
    vq_strides=(2, 1),
    codebook_size=64,
)
"""Everything that there is: attention, noise, an odd change of rate, channels below a block's."""

# As the interpreter is made of it.
NUMPY_WARNS = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")


def few_programs(whole: int = 0) -> TritonBackend:
    """The interpreter pays for each operation, whatever its size: large blocks, few steps."""
    return (
        TritonBackend(DEVICE, whole)
        if DEVICE.type == "cuda"
        else TritonBackend(DEVICE, whole, 512, 4)
    )


def signal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE)


def lengths(*values: int) -> Tensor:
    return torch.tensor(values, device=DEVICE)


@pytest.mark.parametrize(
    ("channels", "dilation", "tile", "steps"),
    # The first nearly as on a GPU: several blocks of channels and of lanes.
    [(96, 1, 256, 8), (48, 3, 512, 4), (20, 9, 512, 2), (3, 3, 128, 3)],
)
@torch.inference_mode()
def test_a_unit_equals_its_layers(channels: int, dilation: int, tile: int, steps: int) -> None:
    torch.manual_seed(0)
    unit = ResidualUnit(channels, dilation, depthwise=True).to(DEVICE)
    for snake in (unit.block[0], unit.block[2]):
        torch.nn.init.uniform_(cast(Tensor, snake.alpha), 0.5, 2.0)
    # Three positions for each sample of the least resolution; the second item has none at all.
    context = BatchContext(84, lengths(84, 0, 21))
    x = signal(3, channels, 28)
    # What is past an end may be anything.
    x[1:, :, 7:] = torch.nan
    x[1] = torch.inf
    apart = torch.full((3, 31, channels), torch.nan, device=DEVICE)[:, 2:30]
    apart.copy_(x.transpose(1, 2))
    kernels = TritonBackend(DEVICE, tile=tile, steps=steps)
    weights = packing.unit(unit)
    got = kernels.unit(apart, weights, context, kernels.workspace(x.dtype)).transpose(1, 2)
    expected = unit(x, context)
    for item, own in ((0, 28), (2, 7)):
        torch.testing.assert_close(got[item, :, :own], expected[item, :, :own], rtol=0, atol=1e-5)
    # Nothing of what is no number is carried on.
    assert got.isfinite().all()
    alone = kernels.unit(
        apart[2:, :7], weights, BatchContext(21, lengths(21)), kernels.workspace(x.dtype)
    ).transpose(1, 2)
    torch.testing.assert_close(alone[0], got[2, :, :7], rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [16, 20])
@torch.inference_mode()
def test_a_unit_that_multiplies_equals_one_that_leaves_it_to_the_library(
    channels: int,
) -> None:
    torch.manual_seed(0)
    unit = ResidualUnit(channels, 3, depthwise=True).to(DEVICE)
    # The interpreter cannot multiply what is in bfloat16.
    weights = packing.PackedWeights(torch.float16).of(unit, packing.unit)
    x, context = signal(2, 40, channels).half(), BatchContext(40, lengths(40, 25))
    made = []
    for whole in (0, 32):
        kernels = few_programs(whole)
        made.append(kernels.unit(x, weights, context, kernels.workspace(x.dtype)).float())
    # The library rounds the sum of the input and the bias on the way.
    torch.testing.assert_close(made[0], made[1], rtol=2**-9, atol=2**-9)
    exact = unit(x.float().transpose(1, 2), context).transpose(1, 2)
    torch.testing.assert_close(made[1][0], exact[0], rtol=2**-8, atol=2**-8)


@NUMPY_WARNS
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e6, 1e12])
def test_the_activation_is_as_exact_as_its_formula_in_floats(
    scale: float,
) -> None:
    x = scale * signal(1, 29, 48)
    alpha = (0.5 + torch.rand(48, generator=torch.Generator().manual_seed(1))).to(DEVICE)
    snake = Snake(alpha, (alpha + 1e-9).reciprocal())
    kernels = few_programs()
    got = kernels.snake(x, snake, BatchContext(58, lengths(50)), kernels.workspace(x.dtype), 2, 1)
    assert got.shape == (1, 32, 48)
    assert not got[0, :2].any()
    # Past the item's end, then past all of them.
    assert not got[0, 2 + 25 :].any()
    angles = (alpha * x).double()
    exact = x.double() + snake.inverse.double() * torch.sin(angles).square()
    # The interpreter rounds what a GPU multiplies and adds at once, as finely as the argument is.
    bound = 2.0**-23 * exact.abs() + 2.0**-20
    assert ((got[0, 2:27] - exact[0, :25]).abs() <= bound[0, :25]).all()


@NUMPY_WARNS
def test_what_is_not_a_number_stays_so() -> None:
    x = torch.zeros(1, 3, 20, device=DEVICE)
    x[0, 1, 7], x[0, 2, 3] = torch.nan, torch.inf
    ones, kernels = torch.ones(20, device=DEVICE), few_programs()
    got = kernels.snake(
        x, Snake(ones, ones), BatchContext(3, lengths(3)), kernels.workspace(x.dtype)
    )
    assert got.isnan().nonzero().tolist() == [[0, 1, 7], [0, 2, 3]]


def test_noise_is_that_of_the_layers() -> None:
    noise = Noise(lengths(0, -5, 2**62 + 3), lengths(0, 24, 2**36))
    context = BatchContext(12_000, lengths(12_000, 12_000, 12_000), noise)
    # The interpreter cuts off where a GPU rounds.
    for index, dtype, error in ((0, torch.float32, 1e-6), (3, torch.bfloat16, 2**-7)):
        x = torch.zeros(3, 1500, 2, dtype=dtype, device=DEVICE)
        got = TritonBackend(DEVICE).normal(x, index, context)
        expected = context.normal(x.transpose(1, 2), index)
        assert got is not None
        assert expected is not None
        torch.testing.assert_close(got, expected.transpose(1, 2), rtol=error, atol=0)
    assert TritonBackend(DEVICE).normal(x, 0, BatchContext(12_000, context.lengths)) is None


def test_what_the_kernels_cannot_read_is_refused() -> None:
    kernels, ones = TritonBackend(DEVICE), torch.ones(4, device=DEVICE)
    context, workspace = BatchContext(5, lengths(5)), kernels.workspace(torch.float32)
    with pytest.raises(ValueError, match=r"rows of \(1, 5, 4\) have strides"):
        kernels.snake(torch.zeros(1, 4, 5).transpose(1, 2), Snake(ones, ones), context, workspace)
    with pytest.raises(ValueError, match="samples of each item"):
        kernels.snake(torch.zeros(1, 5, 4), Snake(ones, ones), BatchContext(5), workspace)


@pytest.fixture(scope="module")
def model() -> SNAC:
    return random_model(SMALL).eval().requires_grad_(False).fold().to(DEVICE)


@torch.inference_mode()
def test_a_padded_batch_equals_the_layers_and_each_clip_alone(
    model: SNAC,
) -> None:
    rows, unit = ChannelsLastNetwork(model, few_programs(), lambda: None), SMALL.pad_multiple
    length, own = 3 * unit, [3 * unit, unit]
    audio = 0.1 * signal(2, 1, length)
    audio[1, :, unit:] = torch.nan
    noise = Noise(lengths(7, -8), lengths(0, 2 * unit))
    context = BatchContext(length, lengths(*own), noise)
    codes, theirs = rows.encode(audio, context), model.encode(audio, context)
    sound, written = rows.decode(theirs, context), model.decode(theirs, context)
    for item, samples in enumerate(own):
        for ours, level in zip(codes, theirs, strict=True):
            count = level.shape[1] * samples // length
            assert torch.equal(ours[item, :count], level[item, :count])
        torch.testing.assert_close(
            sound[item, :, :samples], written[item, :, :samples], rtol=0, atol=1e-5
        )
    short = BatchContext(unit, noise=Noise(lengths(-8), lengths(2 * unit)))
    alone = rows.encode(audio[1:, :, :unit], short)
    for ours, level in zip(codes, alone, strict=True):
        assert torch.equal(ours[1:, : level.shape[1]], level)
    torch.testing.assert_close(rows.decode(alone, short), sound[1:, :, :unit], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_decoding_in_half_precision_is_as_near_as_the_layers_are(
    model: SNAC,
) -> None:
    rows = ChannelsLastNetwork(model, few_programs(), lambda: None, torch.bfloat16)
    audio = 0.1 * signal(1, 1, 2 * SMALL.pad_multiple)
    codes = model.encode(audio)
    exact = model.decode(codes)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        written = model.decode(codes)
    got = rows.decode(codes)
    assert got.dtype == torch.bfloat16
    # On average: which single sample is worst depends on how a processor rounds.
    typical = (written.float() - exact).abs().mean()
    assert 0 < (got.float() - exact).abs().mean() < 2 * typical


def test_a_gpu_has_few_kernels_to_run_which_compile_without_one(tmp_path: Path) -> None:
    """A whole encode and decode, each kernel compiled for Hopper in the place of being run.

    What is counted in place of time: launches, and that no signal's kernel keeps in memory what
    a register could hold.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "tests.snac_core.kernels.compile_for_hopper",
            str(tmp_path),
        ],
        env=environment,
        cwd=Path(gpu.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    launches = [json.loads(line) for line in done.stdout.splitlines()]
    units = [["_unit_kernel", True, False]] * 3
    assert launches[:4] == [*units, ["_snake_kernel", True, False]]
    activation, (name, *_), *products, last = launches[4:]
    assert activation == last == ["_snake_kernel", True, False]
    # The library's cosine keeps something for large angles, which noise never has.
    assert name == "_normal_kernel"
    assert products == [["_unit_kernel", True, True]] * 3
