"""Every key of a training configuration: its type, default and meaning.

Each class is a group of keys and a section of docs/training-configuration.md, which is generated
from here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.types import (
    CONFIG,
    Above0,
    AtLeast0,
    BestMetric,
    Betas,
    Count,
    Counts,
    Curriculum,
    Decay,
    FftSizes,
    Flag,
    GateMetrics,
    Positives,
    Range,
    SetName,
    Shape,
    Share,
    Shares,
    TrainData,
    Whole,
)


def key(default: Any, about: str) -> Any:
    """Return a field of a group; ``...`` for a key that is required."""
    return Field(default=default, description=about)


class Group(BaseModel):
    """Keys that belong together."""

    model_config = ConfigDict(**CONFIG, frozen=True)


class Run(Group):
    """The run."""

    pretrained_model: str | None = key(
        ...,
        "Base model: any reference that `snac_core.load` takes. `null` starts from "
        "random weights and needs `model`.",
    )
    model: Shape = key(
        None, "Shape of a model that is trained from random weights, as in its `config.json`."
    )
    output_dir: str = key(..., "Folder for checkpoints, metrics and logs.")
    experiment_name: str | None = key(
        None, "Name in logs; by default the last part of `output_dir`."
    )
    random_seed: Whole = key(42, "Decides the crops, the order, the augmentation and the noise.")


class Schedule(Group):
    """Epochs, batches and the learning rate."""

    num_epochs: Count = key(
        ..., "Epochs of the run; at most so many where the curriculum's stages count steps."
    )
    batch_size: Count = key(
        ...,
        "Segments in a batch of all processes together; a stage's batch is "
        "`int(batch_size * batch_multiplier)`.",
    )
    segment_length: Above0 = key(2.0, "Seconds in a training segment where there is no curriculum.")
    curriculum: Curriculum = key(
        (),
        'Stages `{"epochs": [1, 2], "length": 1.0, "batch_multiplier": 2.0}`: '
        "segments of `length` seconds, `batch_size * batch_multiplier` of them in a batch. "
        'Epochs past the end use the last stage. `"steps": 5000` in the place of `epochs`, in all '
        "stages, makes each last for so many steps, and the run end with the last.",
    )
    max_steps: Count | None = key(
        None, "Steps after which the run and its learning-rate schedule end; `null` for all epochs."
    )
    learning_rate: Above0 = key(..., "Highest learning rate of AdamW.")
    warmup_steps: Whole = key(0, "Steps over which the learning rate rises from zero.")
    lr_min_ratio: Share = key(0.1, "Where the cosine schedule ends, as a share of `learning_rate`.")
    weight_decay: AtLeast0 = key(..., "Weight decay of AdamW.")
    betas: Betas = key((0.9, 0.999), "Betas of AdamW.")
    grad_clip: AtLeast0 = key(0.0, "Largest norm of the gradient; 0 for no limit.")
    accumulate: Count = key(
        1,
        "Parts in which each batch is computed, one after the other, to save memory. "
        "The batch, and so what is learnt, stays the same.",
    )
    ema_decay: Decay = key(
        0.0,
        "Decay per step of an exponential moving average of the weights, which is "
        "then the model that is validated, kept as the best, and published; 0 for none.",
    )
    max_bad_steps: Count = key(
        10,
        "Steps in a row with a loss or gradient that is not finite after which the "
        "run ends. Each is skipped and counted, and changes no weight.",
    )


class Losses(Group):
    """Terms of the loss."""

    l1_weight: AtLeast0 = key(1.0, "Weight of `l1`.")
    stft_weight: AtLeast0 = key(1.0, "Weight of `stft`.")
    mel_weight: AtLeast0 = key(0.0, "Weight of `mel`.")
    commitment_weight: AtLeast0 = key(
        0.25, "Weight of `commitment`, while the encoder or the quantizer trains."
    )
    codebook_weight: AtLeast0 = key(1.0, "Weight of `codebook`, while the quantizer trains.")
    n_ffts: Counts = key((1024, 2048, 4096), "FFT sizes of `stft`.")
    stft_window: Literal["rectangular", "hann"] = key(
        "rectangular", "Window of `stft`: `rectangular` (the original loss) or `hann`."
    )
    stft_padding: Literal["zero", "reflect"] = key(
        "zero",
        "What `stft` and `mel` see beyond the ends of a segment: zeros, or, as `torch.stft` does "
        "unless told otherwise, the segment mirrored. It changes the frames that reach over an "
        "end; the mirror is that of the batch, padding included.",
    )
    mel_n_ffts: Counts = key((256, 512, 1024, 2048), "FFT sizes of `mel`.")
    mel_bins: Counts = key((20, 40, 80, 160), "Mel bands for each of `mel_n_ffts`.")
    loss_balancer: Flag = key(
        False,
        "Give each term the share of the gradient that its weight is of all weights, "
        "whatever the term's scale.",
    )


class Discriminators(Group):
    """Discriminators."""

    adversarial_weight: AtLeast0 = key(0.0, "Weight of `adversarial`.")
    feature_weight: AtLeast0 = key(
        0.0, "Weight of `feature`. With both weights 0 there are no discriminators."
    )
    discriminator_learning_rate: Above0 = key(
        1e-4, "Learning rate of the discriminators' own AdamW."
    )
    discriminator_betas: Betas = key((0.8, 0.99), "Its betas.")
    discriminator_warmup_steps: Whole = key(
        0,
        "First steps in which the discriminators learn and the codec does not yet learn from them.",
    )
    discriminator_every: Count = key(
        1,
        "The discriminators learn in one of so many steps; the codec learns from them in all.",
    )
    discriminator_checkpoint: str | None = key(
        None,
        "Checkpoint of an earlier run, whose discriminators and their optimizer this run starts "
        "with; `null` starts from random weights.",
    )
    discriminator_periods: tuple[Count, ...] = key(
        (2, 3, 5, 7, 11), "Period, in samples, of each period discriminator; may be empty."
    )
    discriminator_period_channels: Counts = key(
        (32, 128, 512, 1024, 1024), "Channels of their layers."
    )
    discriminator_n_ffts: FftSizes = key(
        (2048, 1024, 512), "FFT size of each spectral discriminator, from 256; may be empty."
    )
    discriminator_fft_channels: Count = key(32, "Channels of their layers.")


class Weights(Group):
    """What learns."""

    freeze_encoder: Flag = key(False, "Leave the encoder as it is.")
    freeze_vq: Flag = key(
        False,
        "Leave the quantizer as it is. With `freeze_encoder`, the token space stays the same; "
        "without it, the encoder learns to use the codebooks that there are.",
    )
    revive_codes_every: Whole = key(
        0,
        "Steps between replacing unused codebook entries by latents, while the "
        "quantizer trains; 0 for never.",
    )
    codebook_decay: Decay = key(
        0.0,
        "Share of a codebook entry that stays in a step in which latents chose it; "
        "the rest is their mean. 0 leaves the entries to their gradient.",
    )
    guided_steps: Whole = key(
        0,
        "First steps in which the decoder of a model from random weights is fed "
        "log-mel features, through a quantizer fitted to them, while the encoder learns to make "
        "them. The quantizer then stays as it was fitted. 0 for none.",
    )
    guide_weight: AtLeast0 = key(
        1.0, "Weight of `guide`, the encoder's distance from those features, in all steps."
    )


class Data(Group):
    """Data and augmentation."""

    train_data: TrainData = key(
        ...,
        "Folder of audio, searched in depth, Parquet manifest of `prepare`, folder or pattern of "
        "WebDataset shards (`*.tar`) or of Parquet files of recordings, as a path or a URL; or a "
        "list of them, each a path or "
        '`{"path": ..., "weight": 2.0}`: a weight is how many times an epoch takes each '
        "recording.",
    )
    val_data: str = key(
        ...,
        "Folder, manifest or shards that validation segments are cut from. They decide what the "
        "best model is.",
    )
    val_sets: dict[SetName, str] = key(
        {},
        "More validation data, by name, such as "
        '`{"general": "general/val"}`: each validation measures them too, and `metrics.csv` has '
        "rows `val:general`.",
    )
    num_workers: Whole = key(
        ..., "Processes that read audio, for each training process; 0 reads in that process."
    )
    min_crop_db: float | None = key(
        None,
        "Training segments whose RMS is below this (dB of full scale) are drawn again, up to "
        "three times; `null` takes any.",
    )
    loudness: float | None = key(
        None, "Loudness (LUFS) that training segments are brought to; `null` leaves them."
    )
    gain_probability: Share = key(0.5, "Share of training segments with a random gain.")
    gain_db: Range = key((-6.0, 6.0), "Range of that gain, dB.")
    polarity_probability: Share = key(0.5, "Share of training segments whose sign is flipped.")
    noise_probability: Share = key(0.0, "Share of training segments with white noise.")
    noise_snr_db: Range = key((10.0, 40.0), "Range of their signal-to-noise ratio, dB.")
    speed_probability: Share = key(0.0, "Share of training segments at another speed and pitch.")
    speed_range: Positives = key((0.9, 1.1), "Range of their speed; 1 is unchanged.")
    reverb_probability: Share = key(0.0, "Share of training segments with room reverberation.")
    reverb_seconds: Positives = key((0.1, 0.5), "Range of its RT60, seconds.")
    equalizer_probability: Share = key(
        0.0, "Share of training segments with one part of the spectrum raised or lowered."
    )
    equalizer_db: Range = key((-9.0, 9.0), "Range of that gain, dB.")
    band_limit_probability: Share = key(0.0, "Share of training segments with a low-pass filter.")
    band_limit_hz: Positives = key((3400.0, 10000.0), "Range of its cut-off, Hz.")
    silence_probability: Share = key(
        0.0, "Share of training segments in which a stretch becomes digital silence."
    )
    codec_probability: Share = key(
        0.0, "Share of training segments that are coded by a lossy codec and decoded."
    )
    codecs: tuple[str, ...] = key(("opus", "vorbis", "mp3"), "Which codecs.")
    codec_quality: Shares = key((0.0, 0.7), "Range of their quality; 1 is the best.")
    bucket_by_length: Flag = key(
        False,
        "For folders: put recordings shorter than a segment into batches of their "
        "own, which are as short as they are instead of mostly padding. With `compile`, every "
        "length is compiled anew.",
    )
    shuffle_buffer: Count = key(
        512, "Segments that each worker mixes at a time when it reads shards."
    )


class Validation(Group):
    """Validation and logs."""

    val_segments: Count = key(256, "Largest number of fixed validation segments.")
    eval_batch_size: Count | None = key(
        None, "Segments in a validation batch; by default the batch of the longest stage."
    )
    eval_every_batches: Count | None = key(
        None, "Steps between validations, besides one after every epoch."
    )
    best_metric: BestMetric = key(
        "loss",
        "What the best model is the best in, on `val_data`: the validation loss, one of its terms, "
        "or a figure (`si_sdr` and `stoi`: the higher the better).",
    )
    min_delta: AtLeast0 = key(
        0.0, "How far `best_metric` must be better than the best so far to count as better."
    )
    early_stop_patience: Count | None = key(
        None, "Validations in a row that are no better and end the run."
    )
    log_every: Count = key(10, "Steps between rows of `metrics.csv`.")
    tracker: str | None = key(
        None,
        "Where the rows of `metrics.csv` go too: `wandb`, `mlflow`, or `module:function`, which is "
        "called with the run's name and configuration and returns an object with "
        "`log(values, step)` and `close()`.",
    )
    profile_steps: Whole = key(
        0,
        "Steps, after the first three, that PyTorch's profiler records; the trace goes to "
        "`profile/` in `output_dir`. 0 for none.",
    )
    sample_clips: Whole = key(
        4, "Validation segments that TensorBoard shows as spectrogram and sound."
    )


class Saving(Group):
    """Checkpoints and publishing."""

    save_every: Count = key(2, "Epochs between `checkpoint_epoch{N}.pt`.")
    save_every_batches: Count | None = key(None, "Steps between writing `checkpoint_latest.pt`.")
    save_every_minutes: Above0 | None = key(
        10.0, "Minutes between writing `checkpoint_latest.pt`; `null` for never."
    )
    keep_checkpoints: Count | None = key(
        None, "How many of the newest `checkpoint_epoch{N}.pt` stay; `null` for all."
    )
    resume: str | None = key(
        None,
        "Checkpoint to go on from, or `auto` for the newest in `output_dir` if there "
        "is one; `null` starts anew.",
    )
    gate_gain: Share = key(
        0.0,
        "Share by which the loss must be lower for a model to be published; it must be lower by "
        "more than the confidence interval of the difference too.",
    )
    gate_metrics: GateMetrics = key(
        (),
        "Figures of the validation segments that must not get worse for a model to be published, "
        "besides the loss: any of `log_mel`, `si_sdr` and `stoi`.",
    )
    gate_sets: tuple[SetName, ...] = key(
        (),
        "Names of `val_sets` on which the loss must not get worse for a model to be published.",
    )
    publish_to: str | None = key(
        None, "Model store that receives each new best model that is better than the version there."
    )


class Computing(Group):
    """Computing."""

    precision: Literal["fp32", "bf16"] = key(
        "fp32",
        "`bf16` for matrix products and convolutions on GPUs that have it; losses stay in `fp32`.",
    )
    kernels: Literal["auto", "on", "off"] = key(
        "auto",
        "On a CPU, in fp32: compute encoder and decoder, forward and backward, with kernels in "
        "C++, several times as fast as PyTorch's layers. `auto` uses them where they can be built "
        "(a C++ compiler, once) or have been; `on` does not start without them.",
    )
    gradient_checkpointing: Flag = key(
        False,
        "Keep only the inputs of the encoder's and decoder's blocks for the backward pass, and "
        "compute the rest again: less memory, about a third more time, the same gradients. "
        "Computes with PyTorch's layers.",
    )
    allow_tf32: Flag = key(
        False,
        "TF32 on GPUs that have it, where something learns. A frozen encoder, the quantizer and "
        "validation stay in full `fp32`.",
    )
    cudnn_benchmark: Flag = key(
        False,
        "Let cuDNN try its algorithms for each new shape and keep the fastest; results then differ "
        "in rounding from run to run.",
    )
    compile: Flag = key(
        False,
        "Compile the residual units of the network, which takes minutes at the start. Has no "
        "effect where `kernels` has.",
    )


GROUPS: dict[str, type[Group]] = {
    "run": Run,
    "schedule": Schedule,
    "data": Data,
    "losses": Losses,
    "discriminators": Discriminators,
    "weights": Weights,
    "validation": Validation,
    "saving": Saving,
    "computing": Computing,
}
"""The groups, by the name under which a configuration file may hold their keys."""
