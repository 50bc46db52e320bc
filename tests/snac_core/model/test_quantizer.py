"""What the quantizer gives for a latent depends on that latent alone, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.model import SNAC
from snac_core.model.quantizer import ResidualVectorQuantize

CONFIG = SnacConfig(encoder_dim=16, decoder_dim=32)
LENGTHS = (4, 28, 60, 132, 260)


@pytest.fixture(scope="module")
def quantizer() -> ResidualVectorQuantize:
    torch.manual_seed(0)
    return SNAC(CONFIG).eval().requires_grad_(False).fold().quantizer


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def latents(batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, CONFIG.latent_channels, length, generator=generator)


def quantized(quantizer: ResidualVectorQuantize, latent: Tensor) -> list[Tensor]:
    """Return all that the quantizer computes: the approximation, and each level's parts."""
    total, levels = quantizer(latent)
    return [total, *(part for level in levels for part in (level.projected, level.codes))]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("length", LENGTHS)
def test_the_number_of_threads_changes_no_bit(
    quantizer: ResidualVectorQuantize, length: int
) -> None:
    latent = latents(1, length)
    torch.set_num_threads(1)
    wanted = quantized(quantizer, latent)
    for count in (2, 3, 4):
        torch.set_num_threads(count)
        found = quantized(quantizer, latent)
        assert all(map(torch.equal, found, wanted)), count


@pytest.mark.parametrize("length", LENGTHS)
def test_neighbours_and_what_follows_change_no_bit(
    quantizer: ResidualVectorQuantize, length: int
) -> None:
    batch = latents(3, length)
    wanted = quantized(quantizer, batch[:1])
    assert all(
        torch.equal(a[:1], b) for a, b in zip(quantized(quantizer, batch), wanted, strict=True)
    )
    longer = torch.cat([batch[:1], latents(1, 32)], dim=-1)
    for found, part in zip(quantized(quantizer, longer), wanted, strict=True):
        assert torch.equal(found[..., : part.shape[-1]], part)
