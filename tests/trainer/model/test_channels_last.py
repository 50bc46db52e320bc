"""The network as a CPU trains it, against the layers as they are written."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.errors import KernelsError
from snac_core.kernels import build
from snac_core.kernels.training import training_kernels
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise
from tests.support.models import TINY, TINY_ATTENTION, random_model
from trainer import config as configuration
from trainer.model.channels_last import ChannelsLast, channels_last
from trainer.model.network import starting_model
from trainer.runtime.distributed import World
from trainer.training.batches import Batch
from trainer.training.learner import Learner

CPU = torch.device("cpu")
CONFIGS = {
    "24khz": TINY,
    "32khz": TINY_ATTENTION,
    "odd rates": SnacConfig(
        encoder_dim=12, decoder_dim=24, encoder_rates=(2, 3), decoder_rates=(3, 2)
    ),
    "full": SnacConfig(encoder_dim=8, decoder_dim=32, depthwise=False),
    "no noise": SnacConfig(
        encoder_dim=8, decoder_dim=32, encoder_rates=(2, 4), decoder_rates=(4, 2), noise=False
    ),
}


def gradients(
    layers: SNAC | ChannelsLast, model: SNAC, audio: Tensor, context: BatchContext
) -> dict[str, Tensor]:
    """Return latent, audio, and every gradient of encoder and decoder."""
    model.zero_grad()
    latent = layers.encoder(audio, context)
    fed = latent.detach().requires_grad_()
    made = layers.decoder(fed, context)
    torch.manual_seed(1)
    made.backward(torch.randn_like(made))
    latent.backward(torch.randn(latent.shape, dtype=latent.dtype))
    assert fed.grad is not None
    found = {"latent": latent.detach(), "audio": made.detach(), "at the latent": fed.grad}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            found[name] = weight.grad.clone()
    return found


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_values_and_gradients_are_those_of_the_layers(config: SnacConfig, padded: bool) -> None:
    kernels = training_kernels("on")
    assert kernels is not None
    # In double precision, where rounding hides nothing.
    model, step = random_model(config).double(), config.pad_multiple
    generator = torch.Generator().manual_seed(0)
    audio = 0.3 * torch.randn(3, 1, 3 * step, generator=generator, dtype=torch.double)
    valid = torch.tensor([3 * step, step, 0]) if padded else None
    noise = Noise(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    context = BatchContext(3 * step, valid, noise)
    written = gradients(model, model, audio, context)
    ours = gradients(ChannelsLast(model, kernels), model, audio, context)
    assert ours.keys() == written.keys()
    for name, value in ours.items():
        bound = 1e-11 * float(written[name].abs().max())
        torch.testing.assert_close(value, written[name], rtol=0, atol=bound, msg=name)


@pytest.mark.parametrize("changes", [{}, {"freeze_encoder": False, "freeze_vq": False}])
def test_a_step_is_that_of_the_layers(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    audio = 0.1 * torch.randn(2, 1, 4096, generator=torch.Generator().manual_seed(0))
    own = torch.ones_like(audio)
    own[1, 0, 1500:] = 0
    batch = Batch(audio * own, own, torch.arange(2))
    terms = {}
    for kernels in ("on", "off"):
        config = configuration.parse({**settings, **changes, "kernels": kernels})
        torch.manual_seed(0)
        learner = Learner(config, starting_model(config)[0], World(CPU))
        terms[kernels] = [learner.step(batch, step, 9) for step in range(3)]
    for ours, written in zip(terms["on"], terms["off"], strict=True):
        assert ours == pytest.approx(written, rel=1e-3)


def test_where_there_are_no_kernels_the_layers_run_as_written(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def layers(**changes: Any) -> ChannelsLast | None:
        return channels_last(configuration.parse({**settings, **changes}), model, CPU)

    model = random_model(TINY)
    assert layers() is not None
    assert layers(precision="bf16") is None
    assert layers(kernels="off") is None
    assert channels_last(configuration.parse(settings), model, torch.device("meta")) is None
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    build._found.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert layers() is None
        assert "AVX2" in caplog.text
        with pytest.raises(KernelsError, match="AVX2"):
            layers(kernels="on")
    finally:
        build._found.cache_clear()
