"""The training configuration: one JSON file, every key checked before anything runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from snac_core.config import SnacConfig
from trainer.config.rules import check


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything a training run is decided by.

    Parameters
    ----------
    pretrained_model
        Where the base model comes from: any reference that `snac_core.load` takes. None
        starts from random weights, and then ``model`` is needed.
    train_data, val_data
        Folders of audio, searched in depth, or folders or patterns of WebDataset shards
        (``*.tar``). ``train_data`` may be a list of them, each also with a weight:
        ``{"path": ..., "weight": 2.0}``.
    batch_size, num_epochs, learning_rate, weight_decay
        As usual; a stage's batch is ``int(batch_size * batch_multiplier)``.
    output_dir
        Where checkpoints, metrics and logs go.
    num_workers
        Processes that read audio; 0 reads in the training process.
    model
        Configuration of a model trained from random weights.
    experiment_name
        Name in logs; the last part of ``output_dir`` unless given.
    eval_batch_size
        Segments per validation batch; the last stage's batch unless given.
    max_steps
        Stop, and end the learning-rate schedule, after so many steps; None for all epochs.
    warmup_steps
        Steps over which the learning rate rises from zero.
    lr_min_ratio
        Where the cosine schedule ends, as a share of ``learning_rate``.
    betas
        Of AdamW.
    grad_clip
        Largest norm of the gradient; 0 for no limit.
    accumulate
        Parts in which each batch is computed one after the other, to save memory. The batch,
        and so what is learnt, stays the same.
    ema_decay
        What stays, each step, of a moving average of the weights, which is then what is
        validated, kept as the best, and published; 0 for none.
    save_every
        Epochs between ``checkpoint_epoch{N}.pt``.
    save_every_batches, save_every_minutes
        How often to write ``checkpoint_latest.pt`` besides; off unless given.
    keep_checkpoints
        How many ``checkpoint_epoch{N}.pt`` stay, the newest; None for all.
    resume
        A checkpoint to go on from, or ``auto`` for the newest in ``output_dir`` if there is
        one; None starts anew.
    eval_every_batches
        Validate every so many steps besides after every epoch; off unless given.
    early_stop_patience
        End after so many validations in a row that are no better; off unless given.
    max_bad_steps
        End after so many steps in a row whose loss or gradient is not finite. Each is left
        out and counted, and changes no weight.
    log_every
        Steps between rows of ``metrics.csv``.
    sample_clips
        Validation segments that are shown as spectrogram and sound in TensorBoard.
    l1_weight, stft_weight, mel_weight, commitment_weight, codebook_weight
        Weights of the named loss terms; the last two count only while the quantizer trains.
    n_ffts
        FFT sizes of the STFT term.
    stft_window
        ``rectangular`` (the original loss) or ``hann``.
    mel_n_ffts, mel_bins
        FFT sizes of the mel term and the number of mel bands of each.
    adversarial_weight, feature_weight
        Weights of the two terms that discriminators give; with both 0 there are none.
    discriminator_learning_rate, discriminator_betas
        Of the discriminators' own AdamW.
    discriminator_warmup_steps
        Steps at the start in which the discriminators already learn to tell what the codec
        makes from recordings, and the codec does not yet learn from them.
    discriminator_periods, discriminator_period_channels
        Samples per row of each discriminator of rows, and the channels of their layers.
    discriminator_n_ffts, discriminator_fft_channels
        FFT size of each discriminator of spectra, and the channels of their layers.
    loss_balancer
        Let each term have the share of the gradient that its weight is of all weights,
        whatever the term's scale.
    freeze_encoder, freeze_vq
        Leave these weights alone. With both, the token space stays the same.
    revive_codes_every
        Steps between replacing unused codebook entries by latents; 0 for never. Has an
        effect only while the quantizer trains.
    codebook_decay
        What stays of a codebook entry in a step in which latents chose it; the rest comes
        from their mean. 0 leaves the entries to their gradient.
    guided_steps
        Steps in which the decoder of a model from random weights is fed log-mel features,
        through a quantizer fitted to them, while the encoder learns to make them; see
        `trainer.model.mel_target`. The quantizer then stays as it was fitted. 0 for no guide.
    guide_weight
        Of the encoder's distance from those features, in all steps.
    segment_length
        Seconds, when there is no curriculum.
    val_segments
        Largest number of fixed validation segments.
    gain_probability, gain_db
        Random gain of training segments: how often, and its range in dB.
    polarity_probability
        How often the sign of a training segment is changed.
    speed_probability, speed_range
        Playing training segments at another speed, pitch and all: how often, and how many
        times as fast.
    reverb_probability, reverb_seconds
        A room in training segments: how often, and in how many seconds sound falls by 60 dB.
    equalizer_probability, equalizer_db
        Raising or lowering a part of training segments' spectrum: how often, and by how much.
    noise_probability, noise_snr_db
        White noise in training segments: how often, and how far below them in dB.
    band_limit_probability, band_limit_hz
        Removing what lies above so many Hz: how often, and the range.
    codec_probability, codecs, codec_quality
        Coding training segments by ``opus``, ``vorbis`` or ``mp3`` and back: how often, by
        which, and at which qualities from 0 to 1.
    silence_probability
        How often a stretch of a training segment becomes digital silence.
    bucket_by_length
        Put recordings shorter than a segment into batches of their own, which are then as
        short as they are instead of mostly padding.
    shuffle_buffer
        Segments that each worker mixes at a time when it reads shards.
    random_seed
        Decides the crops, the order, the gains and the noise.
    precision
        ``fp32`` or ``bf16`` (matrix products and convolutions only; losses stay fp32).
    compile
        Compile the parts of the network that repeat, which takes minutes at the start.
    publish_to
        Model store that receives the best model; None for none.
    curriculum
        Stages; epochs past the end use the last one.
    """

    pretrained_model: str | None
    train_data: str | tuple[Source, ...]
    val_data: str
    batch_size: int
    num_epochs: int
    learning_rate: float
    weight_decay: float
    output_dir: str
    num_workers: int
    model: SnacConfig | None = None
    experiment_name: str | None = None
    eval_batch_size: int | None = None
    max_steps: int | None = None
    warmup_steps: int = 0
    lr_min_ratio: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = 0.0
    accumulate: int = 1
    ema_decay: float = 0.0
    save_every: int = 2
    save_every_batches: int | None = None
    save_every_minutes: float | None = None
    keep_checkpoints: int | None = None
    resume: str | None = None
    eval_every_batches: int | None = None
    early_stop_patience: int | None = None
    max_bad_steps: int = 10
    log_every: int = 10
    sample_clips: int = 4
    l1_weight: float = 1.0
    stft_weight: float = 1.0
    mel_weight: float = 0.0
    commitment_weight: float = 0.25
    codebook_weight: float = 1.0
    n_ffts: tuple[int, ...] = (1024, 2048, 4096)
    stft_window: str = "rectangular"
    mel_n_ffts: tuple[int, ...] = (256, 512, 1024, 2048)
    mel_bins: tuple[int, ...] = (20, 40, 80, 160)
    adversarial_weight: float = 0.0
    feature_weight: float = 0.0
    discriminator_learning_rate: float = 1e-4
    discriminator_betas: tuple[float, float] = (0.8, 0.99)
    discriminator_warmup_steps: int = 0
    discriminator_periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    discriminator_period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    discriminator_n_ffts: tuple[int, ...] = (2048, 1024, 512)
    discriminator_fft_channels: int = 32
    loss_balancer: bool = False
    freeze_encoder: bool = False
    freeze_vq: bool = False
    revive_codes_every: int = 0
    codebook_decay: float = 0.0
    guided_steps: int = 0
    guide_weight: float = 1.0
    segment_length: float = 2.0
    val_segments: int = 256
    gain_probability: float = 0.5
    gain_db: tuple[float, float] = (-6.0, 6.0)
    polarity_probability: float = 0.5
    noise_probability: float = 0.0
    noise_snr_db: tuple[float, float] = (10.0, 40.0)
    codec_probability: float = 0.0
    codecs: tuple[str, ...] = ("opus", "vorbis", "mp3")
    codec_quality: tuple[float, float] = (0.0, 0.7)
    speed_probability: float = 0.0
    speed_range: tuple[float, float] = (0.9, 1.1)
    reverb_probability: float = 0.0
    reverb_seconds: tuple[float, float] = (0.1, 0.5)
    equalizer_probability: float = 0.0
    equalizer_db: tuple[float, float] = (-9.0, 9.0)
    band_limit_probability: float = 0.0
    band_limit_hz: tuple[float, float] = (3400.0, 10000.0)
    silence_probability: float = 0.0
    bucket_by_length: bool = False
    shuffle_buffer: int = 512
    random_seed: int = 42
    precision: str = "fp32"
    compile: bool = False
    publish_to: str | None = None
    curriculum: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        check(self)

    @property
    def quantizer_trains(self) -> bool:
        """Whether codebooks learn from what the encoder makes."""
        return not (self.freeze_vq or self.guided_steps)

    @property
    def adversarial(self) -> bool:
        """Whether discriminators take part."""
        return bool(self.adversarial_weight or self.feature_weight)

    @property
    def name(self) -> str:
        """Experiment name."""
        return self.experiment_name or Path(self.output_dir).name

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping that ``parse`` reads back."""
        values = dataclasses.asdict(self)
        values["model"] = None if self.model is None else self.model.to_dict()
        return json.loads(json.dumps(values))  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One curriculum stage.

    Parameters
    ----------
    epochs
        First and last epoch, counted from 1; a single number means just that epoch.
    length
        Seconds in a training segment.
    batch_multiplier
        Times ``batch_size`` gives the stage's batch.
    """

    epochs: tuple[int, int]
    length: float
    batch_multiplier: float = 1.0


@dataclasses.dataclass(frozen=True)
class Source:
    """One of several places that training data comes from.

    Parameters
    ----------
    path
        Folder of audio or of shards, or a pattern of shards.
    weight
        How many times an epoch takes each of its recordings; a fraction takes some of them.
    """

    path: str
    weight: float = 1.0
