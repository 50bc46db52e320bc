"""The training configuration: one JSON file, every key checked before anything runs."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snac_core.config import SnacConfig
from trainer.config_entries import Source as Source
from trainer.config_entries import Stage as Stage
from trainer.config_rules import check
from trainer.errors import TrainerError


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
        `trainer.model.guide`. The quantizer then stays as it was fitted. 0 for no guide.
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
    noise_probability, noise_snr_db
        White noise in training segments: how often, and how far below them in dB.
    codec_probability, codecs, codec_quality
        Coding training segments by ``opus``, ``vorbis`` or ``mp3`` and back: how often, by
        which, and at which qualities from 0 to 1.
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


def parse(values: Mapping[str, Any]) -> TrainConfig:
    """Build a configuration from parsed JSON.

    Raises
    ------
    TrainerError
        For a missing or unknown key (naming the nearest known one) or an unusable value.
    """
    values = dict(values)
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    _refuse_unknown(values, list(fields), "the configuration")
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and name not in values
    ]
    if missing:
        raise TrainerError(f"the configuration lacks {', '.join(missing)}")
    for key, value in values.items():
        values[key] = _checked(key, value, str(fields[key].type))
    return TrainConfig(**values)


def load(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration file and apply ``key=value`` overrides (values are JSON or text).

    Raises
    ------
    TrainerError
        When the file cannot be read or parsed, or holds something that cannot be used.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise TrainerError(f"cannot read the configuration {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise TrainerError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TrainerError(f"{path} must hold a JSON object, not {type(values).__name__}")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise TrainerError(f"an override reads key=value, not {override!r}")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return parse(values)


def _refuse_unknown(values: Mapping[str, Any], known: list[str], where: str) -> None:
    for key in values:
        if key not in known:
            (near,) = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise TrainerError(f"unknown key {key!r} in {where}; did you mean {near!r}?")


def _checked(key: str, value: Any, annotation: str) -> Any:
    """Return ``value`` as the type that ``annotation`` names."""
    if value is None and annotation.endswith("| None"):
        return None
    if key == "train_data" and not isinstance(value, str):
        sources = tuple(_source(entry) for entry in _listed(key, value))
        if not sources:
            raise TrainerError("train_data must not be empty")
        return sources
    if key == "train_data":
        return value
    if key == "curriculum":
        return tuple(_stage(entry) for entry in _listed(key, [] if value is None else value))
    if key == "model":
        if not isinstance(value, dict):
            raise TrainerError(f"model must be a JSON object, not {value!r}")
        return SnacConfig.from_dict(value)
    if annotation.startswith("tuple["):
        elements = annotation.removeprefix("tuple[").removesuffix("]").split(", ")
        items = _listed(key, value)
        if "..." not in elements and len(items) != len(elements):
            raise TrainerError(f"{key} must be a list of {len(elements)}, not {value!r}")
        return tuple(_checked(key, item, elements[0]) for item in items)
    kind = annotation.removesuffix(" | None")
    types: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "bool": (bool,),
    }
    fits = isinstance(value, types[kind]) and (kind == "bool" or not isinstance(value, bool))
    if not fits:
        raise TrainerError(f"{key} must be of type {kind}, not {value!r}")
    if kind != "float":
        return value
    number = float(value)
    if not math.isfinite(number):
        raise TrainerError(f"{key} must be a finite number, not {value!r}")
    return number


def _listed(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TrainerError(f"{key} must be a list, not {value!r}")
    return value


def _stage(entry: Any) -> Stage:
    if not isinstance(entry, dict) or "epochs" not in entry or "length" not in entry:
        raise TrainerError(f"a curriculum stage needs epochs and length, not {entry!r}")
    _refuse_unknown(entry, ["epochs", "length", "batch_multiplier"], "a curriculum stage")
    epochs = entry["epochs"]
    first, last = _checked(
        "epochs", epochs if isinstance(epochs, list) else [epochs] * 2, "tuple[int, int]"
    )
    if not 1 <= first <= last:
        raise TrainerError(f"epochs of a stage are [first, last] counted from 1, not {epochs!r}")
    length = _checked("length", entry["length"], "float")
    multiplier = _checked("batch_multiplier", entry.get("batch_multiplier", 1.0), "float")
    if length <= 0 or multiplier <= 0:
        raise TrainerError(f"length and batch_multiplier must be above 0 in {entry!r}")
    return Stage((first, last), length, multiplier)


def _source(entry: Any) -> Source:
    if isinstance(entry, str):
        return Source(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise TrainerError(f"an entry of train_data is a path or needs one, not {entry!r}")
    _refuse_unknown(entry, ["path", "weight"], "an entry of train_data")
    weight = _checked("weight", entry.get("weight", 1.0), "float")
    if weight <= 0:
        raise TrainerError(f"weight must be above 0 in {entry!r}")
    return Source(entry["path"], weight)
