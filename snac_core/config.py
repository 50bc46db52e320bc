"""The shape of a SNAC model, and the three public ones."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

from snac_core.errors import ConfigError

MOST = {
    "sampling_rate": 192_000,
    "encoder_dim": 4096,
    "encoder_rates": 16,
    "decoder_dim": 4096,
    "decoder_rates": 16,
    "attn_window_size": 1024,
    "codebook_size": 2**16,
    "codebook_dim": 256,
    "vq_strides": 64,
}
"""Upper bounds of a configuration's numbers: far above any model's, and far below what building
and trying one could take a machine's memory for."""

MOST_ENTRIES = 8
MOST_CHANNELS = 8192
MOST_PAD_SAMPLES = 2**20


@dataclasses.dataclass(frozen=True)
class SnacConfig:
    """Everything that decides the layers of a SNAC model.

    The keys are those of a published SNAC ``config.json``.

    Parameters
    ----------
    sampling_rate
        Hz.
    encoder_dim
        Channels after the first convolution; each down-sampling doubles them.
    encoder_rates
        Down-sampling factors, first to last. Their product is the hop, in samples.
    latent_dim
        Channels of the latent; must equal ``encoder_dim * 2**len(encoder_rates)``.
        None means that value.
    decoder_dim
        Channels at the decoder's input; each up-sampling halves them.
    decoder_rates
        Up-sampling factors, first to last, with the same product as ``encoder_rates``.
    attn_window_size
        Latents in one window of local attention; None for a model without attention.
    codebook_size
        Entries in each codebook: codes run from 0 to ``codebook_size - 1``.
    codebook_dim
        Dimensions in which nearest entries are looked up.
    vq_strides
        Latents that one code of each level covers, coarse to fine. Each is a multiple
        of the next, so that levels nest.
    noise
        Whether decoder blocks add noise.
    depthwise
        Whether residual units use depth-wise convolutions.
    """

    sampling_rate: int = 24000
    encoder_dim: int = 48
    encoder_rates: tuple[int, ...] = (2, 4, 8, 8)
    latent_dim: int | None = None
    decoder_dim: int = 1024
    decoder_rates: tuple[int, ...] = (8, 8, 4, 2)
    attn_window_size: int | None = None
    codebook_size: int = 4096
    codebook_dim: int = 8
    vq_strides: tuple[int, ...] = (4, 2, 1)
    noise: bool = True
    depthwise: bool = True

    def __post_init__(self) -> None:
        for name in ("encoder_rates", "decoder_rates", "vq_strides"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not value:
                raise ConfigError(f"{name} must be a list of whole numbers, not {value!r}")
            if len(value) > MOST_ENTRIES:
                raise ConfigError(f"{name} may have {MOST_ENTRIES} entries, not {len(value)}")
            object.__setattr__(self, name, tuple(value))
        for name in ("noise", "depthwise"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, not {getattr(self, name)!r}")
        self._check_counts()
        self._check_geometry()

    def _check_counts(self) -> None:
        counts: list[tuple[str, Any]] = [
            (name, getattr(self, name))
            for name in ("sampling_rate", "encoder_dim", "decoder_dim", "codebook_size")
        ]
        counts.append(("codebook_dim", self.codebook_dim))
        for name in ("encoder_rates", "decoder_rates", "vq_strides"):
            counts += [(name, value) for value in getattr(self, name)]
        if self.attn_window_size is not None:
            counts.append(("attn_window_size", self.attn_window_size))
        for name, value in counts:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
            if value > MOST[name]:
                raise ConfigError(f"{name} may be at most {MOST[name]}, not {value!r:.40}")

    def _check_geometry(self) -> None:
        if math.prod(self.encoder_rates) != math.prod(self.decoder_rates):
            raise ConfigError(
                f"encoder_rates {list(self.encoder_rates)} multiply to "
                f"{math.prod(self.encoder_rates)} and decoder_rates {list(self.decoder_rates)} to "
                f"{math.prod(self.decoder_rates)}; both must give the same hop"
            )
        if any(a % b for a, b in zip(self.vq_strides, self.vq_strides[1:], strict=False)):
            raise ConfigError(
                f"vq_strides {list(self.vq_strides)}: each must be a multiple of the next"
            )
        if self.decoder_dim % 2 ** len(self.decoder_rates):
            raise ConfigError(
                f"decoder_dim {self.decoder_dim} must be a multiple of "
                f"{2 ** len(self.decoder_rates)}, as it is halved {len(self.decoder_rates)} times"
            )
        if self.latent_dim not in (None, self.latent_channels):
            raise ConfigError(
                f"latent_dim {self.latent_dim} must be {self.latent_channels}, "
                "encoder_dim doubled once for each of encoder_rates"
            )
        if self.latent_channels > MOST_CHANNELS:
            raise ConfigError(
                f"encoder_dim {self.encoder_dim} doubled {len(self.encoder_rates)} times gives "
                f"{self.latent_channels} channels; at most {MOST_CHANNELS} are built"
            )
        if self.pad_multiple > MOST_PAD_SAMPLES:
            raise ConfigError(
                f"audio would be padded to multiples of {self.pad_multiple} samples; at most "
                f"{MOST_PAD_SAMPLES} are"
            )
        if self.attn_window_size is not None:
            for name, dim in (
                ("encoder output", self.latent_channels),
                ("decoder_dim", self.decoder_dim),
            ):
                if dim % 64:
                    raise ConfigError(f"{name} {dim} must be a multiple of 64 to have attention")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SnacConfig:
        """Build from a parsed ``config.json``.

        Raises
        ------
        ConfigError
            For an unknown key (naming the nearest known one) or a value out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if not isinstance(key, str):
                raise ConfigError(f"keys of the model configuration must be names, not {key!r:.40}")
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {known}"
                raise ConfigError(f"unknown key {key!r:.80} in the model configuration{hint}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping that ``from_dict`` reads back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return int(self.encoder_dim * 2 ** len(self.encoder_rates))

    @property
    def hop(self) -> int:
        """Samples per latent."""
        return math.prod(self.encoder_rates)

    @property
    def frame_latents(self) -> int:
        """Latents per coarse frame: what one code of the first level covers."""
        return self.vq_strides[0]

    @property
    def frame_samples(self) -> int:
        """Samples per coarse frame."""
        return self.hop * self.frame_latents

    @property
    def codes_per_frame(self) -> tuple[int, ...]:
        """Codes of each level in one coarse frame, such as (1, 2, 4)."""
        return tuple(self.frame_latents // stride for stride in self.vq_strides)

    @property
    def pad_multiple(self) -> int:
        """Samples to whose multiple the encoder zero-pads: whole frames and attention windows."""
        return self.hop * math.lcm(self.frame_latents, self.attn_window_size or 1)

    @property
    def tokens_per_second(self) -> float:
        """Codes of all levels per second of audio."""
        return self.sampling_rate / self.frame_samples * sum(self.codes_per_frame)

    @property
    def bits_per_second(self) -> float:
        """Bit rate of the codes."""
        return self.tokens_per_second * math.log2(self.codebook_size)

    def padded_samples(self, num_samples: int) -> int:
        """Return ``num_samples`` rounded up to ``pad_multiple``."""
        return -(-num_samples // self.pad_multiple) * self.pad_multiple


SNAC_24KHZ = SnacConfig()
SNAC_32KHZ = SnacConfig(
    sampling_rate=32000,
    encoder_dim=64,
    encoder_rates=(2, 3, 8, 8),
    decoder_dim=1536,
    decoder_rates=(8, 8, 3, 2),
    attn_window_size=32,
    vq_strides=(8, 4, 2, 1),
)
SNAC_44KHZ = dataclasses.replace(SNAC_32KHZ, sampling_rate=44100)

PRESETS = {"snac_24khz": SNAC_24KHZ, "snac_32khz": SNAC_32KHZ, "snac_44khz": SNAC_44KHZ}
