from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snac_core.extent import Extent
from snac_core.model import Reconstruction
from tests.conftest import TINY, random_model
from tests.trainer.conftest import RATE, levels_of, voice
from trainer import config as configuration
from trainer.losses import Losses, magnitude

N_FFTS = (1024, 2048, 4096)


def losses(settings: dict[str, Any], **changes: Any) -> Losses:
    return Losses(configuration.parse({**settings, "n_ffts": list(N_FFTS), **changes}), RATE)


def pair(seconds: float = 1.0, batch: int = 3) -> tuple[Tensor, Tensor]:
    made = np.stack([voice(seconds, seed) for seed in range(batch)])
    wanted = np.stack([voice(seconds, 100 + seed) for seed in range(batch)])
    return torch.from_numpy(made)[:, None], torch.from_numpy(wanted)[:, None]


def plain_magnitude(samples: Any, n_fft: int) -> Any:
    """Return the rectangular-window STFT magnitude with NumPy alone."""
    padded = np.pad(samples.astype(np.float64), n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[:: n_fft // 4]
    return np.abs(np.fft.rfft(frames))


def test_the_original_loss_is_l1_plus_the_mean_stft_distance(settings: dict[str, Any]) -> None:
    made, wanted = pair()
    terms = losses(settings, l1_weight=2.0, stft_weight=0.5)(
        Reconstruction(made, []), wanted, torch.ones_like(wanted)
    )
    x, y = made[:, 0].numpy(), wanted[:, 0].numpy()
    l1 = np.abs(x - y).mean()
    stft = np.mean(
        [
            np.mean(
                [
                    np.abs(plain_magnitude(a, n) - plain_magnitude(b, n))
                    for a, b in zip(x, y, strict=True)
                ]
            )
            for n in N_FFTS
        ]
    )
    assert terms.keys() == {"l1", "stft", "loss"}
    assert float(terms["l1"]) == pytest.approx(l1, rel=1e-5)
    assert float(terms["stft"]) == pytest.approx(stft, rel=1e-4)
    assert float(terms["loss"]) == pytest.approx(2.0 * l1 + 0.5 * stft, rel=1e-4)


def test_a_hann_window_is_an_option() -> None:
    made, _ = pair(batch=1)
    spectrum = torch.stft(
        made[:, 0], 512, window=torch.hann_window(512), pad_mode="constant", return_complex=True
    )
    torch.testing.assert_close(magnitude(made, 512, hann=True), spectrum.abs(), atol=2e-6, rtol=0)


def test_every_weighted_term_is_named_and_nothing_else_is_computed(
    settings: dict[str, Any],
) -> None:
    learning = {"freeze_encoder": False, "freeze_vq": False, "mel_weight": 1.0}
    model = random_model(TINY)
    audio = torch.from_numpy(voice(4096 / RATE, 1))[None, None]
    out = model(audio)
    own = torch.ones_like(audio)
    terms = losses(settings, **learning)(out, audio, own)
    assert terms.keys() == {"l1", "stft", "mel", "commitment", "codebook", "loss"}
    assert losses(settings, mel_weight=1.0)(out, audio, own).keys() == {
        *("l1", "stft", "mel", "loss")
    }
    by_hand = sum(F.mse_loss(level.projected, level.entries) for level in out.levels)
    torch.testing.assert_close(terms["commitment"], by_hand)
    torch.testing.assert_close(terms["codebook"], by_hand)
    total = terms["l1"] + terms["stft"] + terms["mel"]
    torch.testing.assert_close(terms["loss"], total + 0.25 * by_hand + by_hand)


def test_commitment_moves_the_encoder_and_codebook_moves_the_entries(
    settings: dict[str, Any],
) -> None:
    audio = torch.from_numpy(voice(4096 / RATE, 1))[None, None]
    learning = losses(settings, freeze_encoder=False, freeze_vq=False)
    for name, moved, still in (("commitment", "in_proj", "book"), ("codebook", "book", "in_proj")):
        model = random_model(TINY)
        terms = learning(model(audio), audio, torch.ones_like(audio))
        terms[name].backward()
        level = levels_of(model)[0]
        gradients = {
            "book": level.codebook.weight.grad,
            "in_proj": level.in_proj.get_parameter("parametrizations.weight.original1").grad,
        }
        there, gone = gradients[moved], gradients[still]
        assert there is not None
        assert there.any()
        assert gone is None or not gone.any()


@pytest.mark.parametrize("seconds", [0.2, 0.35, 0.5])
def test_padding_counts_for_nothing(settings: dict[str, Any], seconds: float) -> None:
    measure = losses(settings, n_ffts=[256, 512], mel_weight=1.0)
    made, wanted = pair(seconds, batch=2)
    alone = measure(Reconstruction(made, []), wanted, torch.ones_like(wanted))
    room = RATE - made.shape[-1]
    own = F.pad(torch.ones_like(wanted), (0, room))
    # What a model makes of padding is no silence.
    noisy = torch.cat([made, torch.rand(2, 1, room)], dim=-1)
    padded = measure(Reconstruction(noisy, []), F.pad(wanted, (0, room)), own)
    for name, value in alone.items():
        torch.testing.assert_close(padded[name], value, rtol=1e-4, atol=1e-6)


def test_quantizer_terms_leave_out_latents_of_padding(settings: dict[str, Any]) -> None:
    learning = losses(settings, freeze_encoder=False, freeze_vq=False)
    samples = 2 * TINY.frame_samples
    model = random_model(TINY)
    audio = torch.rand(1, 1, samples) - 0.5
    with torch.no_grad():
        latent = model.encoder(audio, Extent(samples))
        levels = model.quantizer(latent)[1]
    own = torch.ones_like(audio)
    own[..., samples // 2 :] = 0
    terms = learning(Reconstruction(audio, levels), audio, own)
    first_halves = [
        (level.projected - level.entries).square()[..., : level.projected.shape[-1] // 2].mean()
        for level in levels
    ]
    torch.testing.assert_close(terms["codebook"], torch.stack(first_halves).sum())


def test_silence_has_a_finite_slope(settings: dict[str, Any]) -> None:
    made = torch.zeros(1, 1, RATE // 2, requires_grad=True)
    target = torch.zeros(1, 1, RATE // 2)
    terms = losses(settings, mel_weight=1.0)(
        Reconstruction(made, []), target, torch.ones_like(target)
    )
    terms["loss"].backward()
    assert made.grad is not None
    assert made.grad.isfinite().all()
