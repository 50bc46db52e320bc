"""The compiled way of a CPU against the layers as they are written."""

from __future__ import annotations

import ctypes
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.errors import KernelsError
from snac_core.kernels import build, cpu
from snac_core.kernels.cpu import CpuBackend, CpuKernels
from snac_core.kernels.interface import Snake, Workspace
from snac_core.kernels.network import ChannelsFirst, ChannelsLastNetwork
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise, draw_normal
from snac_core.types import Precision
from tests.support.models import TINY, TINY_ATTENTION, noise, random_codec, random_model

WIDE = SnacConfig(encoder_dim=24, decoder_dim=96, encoder_rates=(2, 3), decoder_rates=(3, 2))
"""Channels that no vector divides, and an odd change of rate."""

CONFIGS = {
    "24khz": TINY,
    "32khz": TINY_ATTENTION,
    "wide": WIDE,
    "full": SnacConfig(encoder_dim=8, decoder_dim=32, depthwise=False),
}


@pytest.fixture(scope="module")
def compiled() -> CpuKernels:
    found = cpu.kernels("on")
    assert found is not None
    return found


def test_noise_is_that_of_the_layers(compiled: CpuKernels) -> None:
    key, start = torch.tensor([5, 2**32 - 1, 77]), torch.tensor([0, -40, 2**33 + 5])
    for length in (1, 1023, 1024, 5000):
        ours, theirs = compiled.normal(key, start, length), draw_normal(key, start, length)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("threads", [1, 3])
@torch.inference_mode()
def test_rows_equal_the_layers(config: SnacConfig, threads: int, compiled: CpuKernels) -> None:
    model = random_model(config).eval().requires_grad_(False).fold()
    rows = ChannelsLastNetwork(model, CpuBackend(compiled), lambda: None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Shorter than a kernel reaches, then several tiles; the long one leaves its memory full.
        for units in (1, 12, 2):
            length = units * config.pad_multiple
            audio = torch.from_numpy(noise(length, units))[None, None]
            codes = model.encode(audio)
            for ours, theirs in zip(rows.encode(audio), codes, strict=True):
                assert torch.equal(ours, theirs)
            drawn = Noise(torch.tensor([-3]), torch.tensor([512]))
            for context in (BatchContext(length), BatchContext(length, noise=drawn)):
                torch.testing.assert_close(
                    rows.decode(codes, context), model.decode(codes, context), rtol=0, atol=1e-5
                )
    finally:
        torch.set_num_threads(before)


def test_seeded_noise_is_that_of_the_layers() -> None:
    fast, written = random_codec(TINY), random_codec(TINY, compile="off")
    (codes,) = written.encode([noise(30_000)])
    (ours,), (theirs,) = fast.decode([codes], seed=5), written.decode([codes], seed=5)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 100.0, 9_000.0, 1e6])
def test_the_activation_is_as_exact_as_its_formula_in_floats(
    scale: float, compiled: CpuKernels
) -> None:
    """Above, all channels meet ordinary arguments; the sine must hold for any."""
    generator = torch.Generator().manual_seed(0)
    x = scale * torch.randn(500, 53, generator=generator)
    alpha = 0.5 + torch.rand(53, generator=generator)
    snake = Snake(alpha, (alpha + 1e-9).reciprocal())
    angles = (alpha * x).double()
    exact = x.double() + snake.inverse.double() * torch.sin(angles).square()
    # A unit in the last place of the result, and a few in that of the sine.
    bound = 2.0**-24 * exact.abs() + 2.0**-20
    got = compiled.snake(x, snake, Workspace(), before=2, after=1)
    assert got.shape == (503, 53)
    assert not got[:2].any()
    assert not got[-1:].any()
    assert ((got[2:-1].double() - exact).abs() <= bound).all()


def test_what_is_not_a_number_stays_so(compiled: CpuKernels) -> None:
    x = torch.zeros(3, 20)
    x[1, 7], x[2, 3] = torch.nan, torch.inf
    ones = torch.ones(20)
    assert compiled.snake(x, Snake(ones, ones), Workspace()).isnan().nonzero().tolist() == [
        [1, 7],
        [2, 3],
    ]


def test_what_the_kernels_cannot_read_is_refused(compiled: CpuKernels) -> None:
    ones = torch.ones(4)
    for x in (torch.zeros(5, 4).double(), torch.zeros(4, 5).t()):
        with pytest.raises(ValueError, match=r"contiguous torch\.float32"):
            compiled.snake(x, Snake(ones, ones), Workspace())
    rows = ChannelsLastNetwork(random_model(TINY).fold(), CpuBackend(compiled), lambda: None)
    with pytest.raises(ValueError, match="batch of 2"):
        rows.encode(torch.zeros(2, 1, 2048))


@pytest.mark.parametrize(("precision", "decodes_in_rows"), [("fp32", True), ("bf16", False)])
def test_a_codec_uses_them_where_it_may(precision: Precision, decodes_in_rows: bool) -> None:
    def codec(**options: object) -> Codec:
        model = random_model(TINY)
        return Codec(model, version="v", token_space="t", precision=precision, **options)  # type: ignore[arg-type]

    assert isinstance(codec().encoder, ChannelsLastNetwork)
    assert isinstance(codec().decoder, ChannelsLastNetwork) is decodes_in_rows
    assert isinstance(codec(compile="off").encoder, SNAC)
    assert isinstance(codec(device="meta").encoder, SNAC)
    with pytest.raises(ValueError, match="'auto', 'on' or 'off'"):
        codec(compile="yes")


def test_one_build_serves_every_model_and_nearly_every_layer(compiled: CpuKernels) -> None:
    """What is counted in place of time: a second model builds nothing, and no layer is left."""
    library = build.library()
    built = library.stat().st_mtime_ns
    for seed, config in enumerate((SnacConfig(), TINY, TINY)):
        with torch.device("cpu"):
            network = ChannelsLastNetwork(
                random_model(config, seed).fold(), CpuBackend(compiled), lambda: None
            )
        left = [
            type(layer._alone[0]).__name__
            for layer in (*network.layers["encode"], *network.layers["decode"])
            if isinstance(layer, ChannelsFirst)
        ]
        # The latent's convolutions, at a 512th of the sample rate, and the last step.
        assert sorted(left) == ["Conv1d"] * 3 + ["Tanh"]
    assert build.library() == library
    assert library.stat().st_mtime_ns == built


def test_windows_after_the_first_two_ask_for_no_memory_of_their_size(compiled: CpuKernels) -> None:
    network = ChannelsLastNetwork(
        random_model(TINY).eval().fold(), CpuBackend(compiled), lambda: None
    )
    audio = torch.from_numpy(noise(20 * 2048))[None, None]
    largest = 8 * audio.numel() * 4

    def requested() -> list[int]:
        with (
            torch.inference_mode(),
            torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            ) as profile,
        ):
            network.encode(audio)
        events = profile.events()
        assert events is not None
        return [event.cpu_memory_usage for event in events if event.name == "aten::empty"]

    assert max(requested()) >= largest
    requested()  # The two buffers have now had each other's turns.
    assert max(requested()) < largest


@pytest.mark.parametrize(("wanted", "said"), [("auto", "None"), ("on", "refused: no compiled")])
def test_without_a_compiler_it_says_so(wanted: str, said: str, tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-m", "tests.snac_core.kernels.find_kernels", wanted],
        env=environment,
        cwd=Path(cpu.__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(said)
    assert "c++, g++, clang++" in done.stdout + done.stderr


def test_a_failed_build_names_the_command_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c++").symlink_to("/bin/false")
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "built"
    folder.mkdir()
    with pytest.raises(KernelsError, match=r"c\+\+ .*cpu\.cpp.* failed"):
        build.build("AVX2", folder)
    assert not list(folder.iterdir())


def test_the_reason_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    build._found.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert cpu.kernels("auto") is None
            assert cpu.kernels("auto") is None
        assert [record.getMessage().count("AVX2") for record in caplog.records] == [1]
    finally:
        build._found.cache_clear()


@torch.inference_mode()
def test_what_is_built_ahead_for_an_older_cpu_gives_the_same_codes(tmp_path: Path) -> None:
    older = CpuKernels(ctypes.CDLL(str(build.build("AVX2", tmp_path))))
    model = random_model(TINY).eval().requires_grad_(False).fold()
    audio = torch.from_numpy(noise(4 * TINY.pad_multiple))[None, None]
    codes = ChannelsLastNetwork(model, CpuBackend(older), lambda: None).encode(audio)
    assert all(torch.equal(a, b) for a, b in zip(codes, model.encode(audio), strict=True))
