"""Published recipes in this trainer's terms: the converted weights give what the originals give."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from snac_core.config import SnacConfig
from snac_core.model import Reconstruction
from snac_core.quality import mel_filterbank
from tests.trainer.conftest import voice
from trainer import config as configuration
from trainer.config import TrainConfig
from trainer.config.advice import advice
from trainer.errors import TrainerError
from trainer.losses.discriminators import Discriminators
from trainer.losses.losses import Losses, magnitude

CONFIGS = Path(configuration.__file__).parents[1] / "configs"
RATE = 24000
DAC_MELS = {32: 5, 64: 10, 128: 20, 256: 40, 512: 80, 1024: 160, 2048: 320}


@pytest.fixture(params=["dac_recipe", "snac_paper"])
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return configuration.load(CONFIGS / f"{request.param}.json")


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    made, wanted = (torch.from_numpy(voice(0.38, seed))[None, None] for seed in (1, 2))
    return made, wanted


def test_the_mel_term_is_that_of_the_descript_audio_codec(config: TrainConfig) -> None:
    made, wanted = pair()
    expected = 0.0
    for n_fft, bins in DAC_MELS.items():
        filters = torch.from_numpy(mel_filterbank(RATE, n_fft, bins))
        logs = [
            (
                filters
                @ torch.stft(
                    audio[:, 0],
                    n_fft,
                    n_fft // 4,
                    window=torch.hann_window(n_fft),
                    return_complex=True,
                ).abs()
            )
            .clamp(min=1e-5)
            .log10()
            for audio in (made, wanted)
        ]
        expected += 15.0 * float((logs[0] - logs[1]).abs().mean())
    assert (config.commitment_weight, config.codebook_weight) == (0.25, 1.0)
    # Of signals alone, which have no codes.
    alone = config.model_copy(update={"commitment_weight": 0.0, "codebook_weight": 0.0})
    terms = Losses(alone, RATE)(Reconstruction(made, []), wanted, torch.ones_like(wanted))
    assert config.mel_weight * float(terms["mel"]) == pytest.approx(expected, rel=1e-3)
    assert config.mel_weight == pytest.approx(15.0 * len(DAC_MELS) / math.log(10), rel=1e-4)


def test_the_adversarial_term_is_a_sum_over_discriminators(config: TrainConfig) -> None:
    # Fewer channels: what is compared does not depend on them.
    config = config.model_copy(
        update={"discriminator_period_channels": (2, 4), "discriminator_fft_channels": 2}
    )
    torch.manual_seed(0)
    discriminators = Discriminators(config)
    made, wanted = pair()
    ends = torch.tensor([made.shape[-1]])
    with torch.no_grad():
        terms = discriminators.generator_terms(made, wanted, torch.ones_like(made))
        scores = [one(made, ends)[-1].values for one in discriminators.discriminators]
    expected = sum(float((score - 1.0).square().mean()) for score in scores)
    weighted = config.adversarial_weight * float(terms["adversarial"])
    assert weighted == pytest.approx(expected, rel=0.02)


def test_the_shape_is_that_of_the_published_model() -> None:
    config = configuration.load(CONFIGS / "snac_paper.json")
    assert config.model == SnacConfig()
    assert not list(advice(config, 250_000))


def test_the_edges_of_a_segment_are_zeros_or_its_mirror() -> None:
    made, _ = pair()
    for reflect, mode in ((False, "constant"), (True, "reflect")):
        padded = torch.nn.functional.pad(made, (128, 128), mode=mode)
        expected = torch.stft(
            padded[:, 0],
            256,
            64,
            window=torch.hann_window(256),
            center=False,
            return_complex=True,
        ).abs()
        torch.testing.assert_close(magnitude(made, 256, True, reflect), expected, atol=2e-6, rtol=0)
    with pytest.raises(TrainerError, match="more than 2048 samples, not 1000"):
        magnitude(made[..., :1000], 4096, True, reflect=True)
