from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snac_core.model import Reconstruction
from snac_core.model.batch_context import BatchContext
from tests.support.models import TINY, random_model
from tests.trainer.conftest import RATE, levels_of, voice
from tests.trainer.halves import shared_counts
from trainer import config as configuration
from trainer.config import TrainConfig
from trainer.losses.balancer import Balancer
from trainer.losses.losses import TERMS, Losses, magnitude, term_weights, weighted_sum
from trainer.model.network import frozen

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


def test_a_frozen_quantizer_passes_gradients_to_the_encoder(settings: dict[str, Any]) -> None:
    config = configuration.parse({**settings, "freeze_encoder": False})
    model = frozen(random_model(TINY), config)
    audio = torch.from_numpy(voice(4096 / RATE, 1))[None, None]
    terms = losses(settings, freeze_encoder=False)(model(audio), audio, torch.ones_like(audio))
    first = model.encoder.get_parameter("block.0.parametrizations.weight.original1")
    for name in ("commitment", "l1", "stft"):
        (gradient,) = torch.autograd.grad(terms[name], [first], retain_graph=True)
        assert gradient.any(), name
    assert not any(weight.requires_grad for weight in model.quantizer.parameters())


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
        latent = model.encoder(audio, BatchContext(samples))
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


def test_the_table_names_every_weight_of_the_configuration() -> None:
    keys = {name for name in TrainConfig.model_fields if name.endswith("_weight")}
    assert {term.weight for term in TERMS.values()} == {*keys, None}
    assert all(term.weight in (f"{name}_weight", None) for name, term in TERMS.items())
    assert all(term.what and term.source for term in TERMS.values())


def test_what_the_codec_learns_from(settings: dict[str, Any]) -> None:
    changes = {"adversarial_weight": 0.5, "feature_weight": 2.0, "l1_weight": 0.0}
    config = configuration.parse({**settings, **changes})
    weights = term_weights(config)
    assert weights == {"stft": 1.0, "adversarial": 0.5, "feature": 2.0}
    learning = configuration.parse({**settings, "freeze_encoder": False, "freeze_vq": False})
    assert term_weights(learning) == {
        **{"l1": 1.0, "stft": 1.0, "commitment": 0.25, "codebook": 1.0}
    }
    # Entries that stay can still draw an encoder.
    encoder = configuration.parse({**settings, "freeze_encoder": False})
    assert term_weights(encoder) == {"l1": 1.0, "stft": 1.0, "commitment": 0.25}
    # During the discriminators' warm-up their terms are absent.
    terms = {"stft": torch.tensor(3.0), "loss": torch.tensor(9.0)}
    assert weighted_sum(terms, weights) == 3.0
    assert weighted_sum(terms | {"feature": torch.tensor(4.0)}, weights) == 11.0
    # What a validation loss is must not move with the discriminators.
    made, wanted = pair(0.1, batch=1)
    found = Losses(config, RATE)(Reconstruction(made, []), wanted, torch.ones_like(wanted))
    assert found.keys() == {"stft", "loss"}


def test_halves_of_a_batch_with_shared_counts_are_the_whole(settings: dict[str, Any]) -> None:
    measure = losses(
        settings, n_ffts=[256, 512], mel_weight=1.0, freeze_encoder=False, freeze_vq=False
    )
    model, samples = random_model(TINY), 3 * TINY.frame_samples
    wanted = torch.from_numpy(np.stack([voice(1.0, seed)[:samples] for seed in range(4)]))[:, None]
    own = torch.ones_like(wanted)
    for item, length in enumerate((samples, samples // 2, 700, 0)):
        own[item, :, length:] = 0
    with torch.no_grad():
        out = model(wanted)
    made = out.audio.requires_grad_()

    def terms(part: slice) -> dict[str, Tensor]:
        levels = [
            level._replace(projected=level.projected[part], entries=level.entries[part])
            for level in out.levels
        ]
        found: dict[str, Tensor] = measure(
            Reconstruction(made[part], levels), wanted[part], own[part]
        )
        return found

    whole = terms(slice(0, 4))
    halves = shared_counts(measure, [lambda: terms(slice(0, 2)), lambda: terms(slice(2, 4))])
    for name, value in whole.items():
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-7, msg=name)
    mean = (halves[0]["loss"] + halves[1]["loss"]) / 2
    gradients = [torch.autograd.grad(loss, made)[0] for loss in (mean, whole["loss"])]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-8)


def test_a_segment_without_a_recording_counts_for_nothing(settings: dict[str, Any]) -> None:
    measure = losses(settings, n_ffts=[256, 512], mel_weight=1.0)
    made, wanted = pair(0.2, batch=3)
    own = torch.ones_like(wanted)
    without = measure(Reconstruction(made[:2], []), wanted[:2], own[:2])
    own[2] = 0
    for name, value in measure(Reconstruction(made, []), wanted, own).items():
        torch.testing.assert_close(value, without[name])
    nothing = measure(Reconstruction(made, []), wanted, torch.zeros_like(own))
    assert {float(value) for value in nothing.values()} == {0.0}


def test_terms_do_not_hang_together(settings: dict[str, Any]) -> None:
    measure = losses(settings, mel_weight=1.0, freeze_encoder=False, freeze_vq=False)
    audio = torch.from_numpy(voice(4096 / RATE, 1))[None, None]
    out = random_model(TINY)(audio)
    terms = measure(out, audio, torch.ones_like(audio))
    for name in measure.weights:
        (gradient,) = torch.autograd.grad(
            terms[name], out.audio, retain_graph=True, allow_unused=True
        )
        assert (gradient is None) == (name in ("commitment", "codebook")), name


def test_a_balancer_leaves_the_quantizer_its_gradient(settings: dict[str, Any]) -> None:
    measure = losses(settings, n_ffts=[256, 512], freeze_encoder=False, freeze_vq=False)
    audio = torch.from_numpy(voice(4096 / RATE, 1))[None, None]
    books = []
    for balanced in (True, False):
        model = random_model(TINY)
        out = model(audio)
        terms = measure(out, audio, torch.ones_like(audio))
        weighed = {name: terms[name] for name in measure.weights}
        if balanced:
            sizes = Balancer(measure.weights).backward(weighed, out.audio)
            assert sizes.keys() == {"l1", "stft"}
        else:
            torch.autograd.backward(terms["loss"])
        books.append([level.codebook.weight.grad for level in levels_of(model)])
    torch.testing.assert_close(*books)


def test_the_documentation_has_the_table() -> None:
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    for name, term in TERMS.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{name}` |")), "")
        assert row.replace("`", "") == f"| {name} | {term.what} | {term.source} |"
