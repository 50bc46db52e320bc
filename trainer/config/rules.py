"""What the values of a training configuration may be, and which of them go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from trainer.errors import TrainerError

if TYPE_CHECKING:
    from trainer.config.schema import TrainConfig

_RULES: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    (
        "above 0",
        lambda value: value > 0,
        (
            *("batch_size", "num_epochs", "learning_rate", "eval_batch_size", "max_steps"),
            *("save_every", "save_every_batches", "save_every_minutes", "eval_every_batches"),
            *("n_ffts", "mel_n_ffts", "mel_bins", "segment_length", "val_segments"),
            *("shuffle_buffer", "speed_range", "reverb_seconds", "band_limit_hz"),
            *("accumulate", "keep_checkpoints", "early_stop_patience", "max_bad_steps"),
            *("log_every",),
            *("discriminator_learning_rate", "discriminator_periods"),
            *("discriminator_period_channels", "discriminator_fft_channels"),
        ),
    ),
    (
        "0 or more",
        lambda value: value >= 0,
        (
            *("weight_decay", "num_workers", "warmup_steps", "grad_clip", "random_seed"),
            *("l1_weight", "stft_weight", "mel_weight", "commitment_weight", "codebook_weight"),
            *("revive_codes_every", "sample_clips"),
            *("guided_steps", "guide_weight"),
            *("adversarial_weight", "feature_weight", "discriminator_warmup_steps"),
        ),
    ),
    (
        "from 0 to 1",
        lambda value: 0 <= value <= 1,
        (
            *("lr_min_ratio", "gain_probability", "polarity_probability", "noise_probability"),
            *("codec_probability", "codec_quality", "speed_probability", "reverb_probability"),
            *("equalizer_probability", "band_limit_probability", "silence_probability"),
        ),
    ),
    (
        "at least 0 and below 1",
        lambda value: 0 <= value < 1,
        ("betas", "discriminator_betas", "codebook_decay", "ema_decay"),
    ),
    # The narrowest band, a tenth of the bins, is halved three times and must leave some.
    ("at least 256", lambda value: value >= 256, ("discriminator_n_ffts",)),
)
"""What numbers may be."""

_RANGES = (
    *("gain_db", "noise_snr_db", "codec_quality", "speed_range", "reverb_seconds"),
    *("equalizer_db", "band_limit_hz"),
)
"""What is [lowest, highest]."""

_CHOICES = {"precision": ("fp32", "bf16"), "stft_window": ("rectangular", "hann")}


def check(config: TrainConfig) -> None:
    """Check every value.

    Raises
    ------
    TrainerError
        With the key, its value and what would be right.
    """
    for wanted, fits, names in _RULES:
        for name, value in _numbers(config, names):
            if not fits(value):
                raise TrainerError(f"{name} must be {wanted}, not {value!r}")
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise TrainerError(
                f"{name} must be {' or '.join(map(repr, choices))}, not {getattr(config, name)!r}"
            )
    if (config.pretrained_model is None) == (config.model is None):
        raise TrainerError(
            "give either pretrained_model (fine-tune it) or model (train that shape from "
            "random weights), one of the two"
        )
    if config.guided_steps and config.model is None:
        raise TrainerError(
            "guided_steps begins by replacing the codebooks of the pretrained_model; it is for "
            "a model from random weights"
        )
    if config.guided_steps and (config.loss_balancer or config.freeze_encoder):
        raise TrainerError("guided_steps goes with neither loss_balancer nor freeze_encoder")
    if config.guided_steps and config.bucket_by_length:
        raise TrainerError(
            "guided_steps is fitted to segments of one length: it does not go with bucket_by_length"
        )
    if not config.l1_weight + config.stft_weight + config.mel_weight:
        raise TrainerError("one of l1_weight, stft_weight and mel_weight must be above 0")
    for name in _RANGES:
        lowest, highest = getattr(config, name)
        if lowest > highest:
            raise TrainerError(f"{name} must be [lowest, highest], not {[lowest, highest]}")
    if len(config.mel_bins) != len(config.mel_n_ffts):
        raise TrainerError(
            f"mel_bins {list(config.mel_bins)} needs one number for each of "
            f"mel_n_ffts {list(config.mel_n_ffts)}"
        )
    if config.freeze_vq and not config.freeze_encoder:
        raise TrainerError(
            "freeze_vq without freeze_encoder would train an encoder against codebooks that "
            "cannot follow; freeze both, freeze_encoder alone, or none"
        )
    for before, after in zip(config.curriculum, config.curriculum[1:], strict=False):
        if after.epochs[0] <= before.epochs[1]:
            raise TrainerError(
                f"the curriculum's stages must follow each other: {list(after.epochs)} comes "
                f"after {list(before.epochs)}"
            )


def _numbers(config: TrainConfig, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield each number that these keys hold, none where one is None."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, tuple):
            if not value:
                raise TrainerError(f"{name} must not be empty")
            yield from ((name, item) for item in value)
        elif value is not None:
            yield name, value
