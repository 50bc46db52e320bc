"""Codes: what a recording becomes, how it is checked, and its three file forms."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from snac_core.config import SnacConfig
from snac_core.errors import CodesError
from snac_core.utils import npz

INT32_CODES = 2**31
UINT16_CODES = 2**16
MAX_LEVELS = 16
MAX_COUNT = 2**53
MAX_NPZ_BYTES = 64 * 2**20


def whole_numbers(
    values: object, name: str, error: type[CodesError] = CodesError
) -> npt.NDArray[np.int64]:
    """Return a list, tuple or array of whole numbers as a 1-D int64 array.

    Truth values and floats are refused, whole-valued floats too: they are never codes.

    Raises
    ------
    CodesError
        (or ``error``) naming ``name`` and the first index that is not a whole number.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iu":
            raise error(f"{name} must hold whole numbers, not {values.dtype}")
        if values.ndim != 1:
            raise error(f"{name} must be one-dimensional, not of shape {values.shape}")
        if values.dtype == np.uint64 and values.size and int(values.max()) >= 2**63:
            raise error(f"{name}, index {int(values.argmax())}: {values.max()} is too large")
        return values.astype(np.int64)
    if not isinstance(values, (list, tuple)):
        raise error(f"{name} must be a list of whole numbers, not {_shown(values)}")
    for kind in set(map(type, values)):
        if kind is bool or not issubclass(kind, (int, np.integer)):
            index = next(i for i, value in enumerate(values) if type(value) is kind)
            raise error(f"{name}, index {index}: {_shown(values[index])} is not a whole number")
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        index = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise error(f"{name}, index {index}: {_shown(values[index])} is too large") from None


def check_range(
    values: npt.NDArray[Any],
    low: npt.NDArray[np.int64] | int,
    high: npt.NDArray[np.int64] | int,
    *,
    where: str = "",
    noun: str = "token",
    level: int | None = None,
    first: int = 0,
    width: int | None = None,
    hint: str = "",
    error: type[CodesError] = CodesError,
) -> None:
    """Check that each of ``values``, [N], is within ``low`` and ``high``, of all or of each.

    Parameters
    ----------
    where, noun
        What the message begins with, and what it calls a value.
    level
        The level or lane that the values belong to.
    first
        The index of the first value in its stream.
    width
        Positions of a frame, for the message to name the position.
    hint
        What the message ends with.

    Raises
    ------
    CodesError
        (or ``error``) naming index, value and legal range of the first value outside.
    """
    wrong = np.flatnonzero((values < low) | (values > high))
    if not wrong.size:
        return
    at, index = int(wrong[0]), first + int(wrong[0])
    lowest, highest = (int(np.broadcast_to(bound, values.shape)[at]) for bound in (low, high))
    value, legal = int(values[at]), f"{lowest}..{highest}"
    position = f", the codes of position {index % width}" if width else ""
    raise error(
        f"{where}index {index}: {noun} {value} is outside {legal}{position}{hint}",
        level=level,
        index=index,
        value=value,
        legal=legal,
    )


def check_levels(levels: object, config: SnacConfig) -> tuple[npt.NDArray[np.int32], ...]:
    """Return ``levels`` as int32 arrays, having checked that ``config`` could have written them.

    Raises
    ------
    CodesError
        Naming the level, index, value and legal range of the first wrong code, or the
        number or lengths of the levels and what they should be.
    """
    strides = list(config.vq_strides)
    if not isinstance(levels, (list, tuple)):
        raise CodesError(f"codes must be {len(strides)} lists, one per level, not {_shown(levels)}")
    if len(levels) != len(strides):
        raise CodesError(f"{len(levels)} levels of codes; this model has {len(strides)}")
    arrays = tuple(
        _level(level, values, config.codebook_size) for level, values in enumerate(levels)
    )
    frames = len(arrays[0]) // config.codes_per_frame[0]
    for level, (array, count) in enumerate(zip(arrays, config.codes_per_frame, strict=True)):
        if len(array) != frames * count:
            ratio = ":".join(str(count) for count in config.codes_per_frame)
            raise CodesError(
                f"level {level} holds {len(array)} codes; {frames} coarse frames need "
                f"{frames * count} (lengths of the levels must be {ratio})"
            )
    return arrays


@dataclasses.dataclass(frozen=True, eq=False)
class Codes:
    """The codes of one recording.

    Parameters
    ----------
    levels
        One 1-D int32 array per level, coarse to fine. Lists and other integer arrays are
        converted.
    num_samples
        Samples of audio that the codes decode to. At most their capacity, which is whole
        coarse frames; what lies beyond is the encoder's padding.
    sample_rate
        Of that audio, in Hz.

    Raises
    ------
    CodesError
        For a level that is empty or not of whole numbers from 0 up, or counts below 1.
        What depends on the model is left to ``validate``.
    """

    levels: tuple[npt.NDArray[np.int32], ...]
    num_samples: int
    sample_rate: int

    def __post_init__(self) -> None:
        if not isinstance(self.levels, (list, tuple)) or not self.levels:
            raise CodesError(f"codes must be one list per level, not {_shown(self.levels)}")
        levels = tuple(_level(i, values, INT32_CODES) for i, values in enumerate(self.levels))
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "num_samples", _count("num_samples", self.num_samples))
        object.__setattr__(self, "sample_rate", _count("sample_rate", self.sample_rate))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Codes):
            return NotImplemented
        return (
            (self.num_samples, self.sample_rate) == (other.num_samples, other.sample_rate)
            and len(self.levels) == len(other.levels)
            and all(map(np.array_equal, self.levels, other.levels))
        )

    @property
    def duration(self) -> float:
        """Seconds of audio that the codes decode to."""
        return self.num_samples / self.sample_rate

    def frames(self, config: SnacConfig) -> int:
        """Return the number of coarse frames."""
        return len(self.levels[0]) // config.codes_per_frame[0]

    def validate(self, config: SnacConfig) -> None:
        """Check that a model of shape ``config`` could have written these codes.

        Raises
        ------
        CodesError
            Naming what is wrong: the level, index, value and legal range of a code; the
            number or lengths of the levels; ``sample_rate``; or ``num_samples``.
        """
        check_levels(self.levels, config)
        if self.sample_rate != config.sampling_rate:
            raise CodesError(
                f"codes of {self.sample_rate} Hz audio; this model is for {config.sampling_rate} Hz"
            )
        capacity = self.frames(config) * config.frame_samples
        if self.num_samples > capacity:
            raise CodesError(
                f"num_samples {self.num_samples} is outside 1..{capacity}, what "
                f"{self.frames(config)} coarse frames hold"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"codes": [[...], ...], "num_samples": n, "sample_rate": hz}``."""
        return {
            "codes": [level.tolist() for level in self.levels],
            "num_samples": self.num_samples,
            "sample_rate": self.sample_rate,
        }

    @classmethod
    def from_dict(cls, values: object, config: SnacConfig | None = None) -> Codes:
        """Build from what ``to_dict`` returns; other keys are ignored.

        Parameters
        ----------
        values
            A mapping with ``codes``, and optionally ``num_samples`` and ``sample_rate``.
        config
            When given, the codes are validated against it, a missing or null
            ``num_samples`` means everything the codes hold, and ``sample_rate`` defaults
            to the model's. Without it both are required.

        Raises
        ------
        CodesError
            As ``validate`` does, and for missing keys.
        """
        if not isinstance(values, Mapping):
            raise CodesError(f"expected a mapping with the key 'codes', not {_shown(values)}")
        if "codes" not in values:
            raise CodesError("the key 'codes' is missing")
        levels, num_samples = values["codes"], values.get("num_samples")
        sample_rate = values.get("sample_rate")
        if config is not None:
            levels = check_levels(levels, config)
            if num_samples is None:
                num_samples = len(levels[0]) // config.codes_per_frame[0] * config.frame_samples
            if sample_rate is None:
                sample_rate = config.sampling_rate
        codes = cls(levels, num_samples, sample_rate)  # type: ignore[arg-type]
        if config is not None:
            codes.validate(config)
        return codes

    def to_json(self) -> str:
        """Return ``to_dict`` as JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, data: str | bytes, config: SnacConfig | None = None) -> Codes:
        """Read JSON; see ``from_dict`` for ``config`` and errors."""
        try:
            values = json.loads(data)
        except RecursionError:
            raise CodesError("not codes in JSON: too deeply nested") from None
        except ValueError as error:
            raise CodesError(f"not JSON: {error}") from None
        return cls.from_dict(values, config)

    def to_msgpack(self) -> bytes:
        """Return ``to_dict`` as msgpack, each level as raw little-endian uint16.

        Levels with a code above 65535 are lists.
        """
        values = self.to_dict()
        values["codes"] = [
            level.astype("<u2").tobytes() if level.max() < UINT16_CODES else level.tolist()
            for level in self.levels
        ]
        return bytes(msgpack.packb(values))

    @classmethod
    def from_msgpack(cls, data: bytes, config: SnacConfig | None = None) -> Codes:
        """Read msgpack: a map whose levels are raw little-endian uint16 or lists.

        See ``from_dict`` for ``config`` and errors.
        """
        try:
            values = msgpack.unpackb(data)
        except (ValueError, msgpack.UnpackException) as error:
            raise CodesError(f"not msgpack: {str(error) or type(error).__name__}") from None
        if isinstance(values, dict) and isinstance(values.get("codes"), list):
            for level, raw in enumerate(values["codes"]):
                if isinstance(raw, bytes):
                    if len(raw) % 2:
                        raise CodesError(
                            f"level {level}: {len(raw)} bytes are not whole uint16 codes"
                        )
                    values["codes"][level] = np.frombuffer(raw, dtype="<u2")
        return cls.from_dict(values, config)

    def to_npz(self) -> bytes:
        """Return an npz file: ``level_0``, ``level_1``, ..., ``num_samples``, ``sample_rate``.

        Levels are uint16, or int32 with a code above 65535. Equal codes give equal bytes.
        """
        members: dict[str, npt.NDArray[Any]] = {
            f"level_{i}": level.astype("<u2" if level.max() < UINT16_CODES else "<i4")
            for i, level in enumerate(self.levels)
        }
        members["num_samples"] = np.array(self.num_samples, dtype="<i8")
        members["sample_rate"] = np.array(self.sample_rate, dtype="<i8")
        return npz.pack(members)

    @classmethod
    def from_npz(
        cls, data: bytes, config: SnacConfig | None = None, max_bytes: int = MAX_NPZ_BYTES
    ) -> Codes:
        """Read an npz file as ``to_npz`` writes it, ``num_samples`` and ``sample_rate`` optional.

        Nothing is unpacked before the names and declared sizes of the members have been
        checked, nothing is unpickled, and no more than ``max_bytes`` are ever unpacked.
        See ``from_dict`` for ``config`` and further errors.

        Raises
        ------
        CodesError
            For a file that is damaged, too large once unpacked, or has unexpected members.
        """
        counts = ("num_samples", "sample_rate")
        allowed = {*counts, *(f"level_{i}" for i in range(MAX_LEVELS))}
        members = npz.unpack(data, allowed, max_bytes)
        values: dict[str, Any] = {}
        for name in counts:
            if name in members:
                array = members.pop(name)
                if array.ndim:
                    raise CodesError(f"{name} must be one whole number, not {array.size}")
                values[name] = array.item()
        names = [f"level_{i}" for i in range(len(members))]
        for name in names:
            if name not in members:
                raise CodesError(f"member {name} of the npz is missing")
        values["codes"] = [members[name] for name in names]
        return cls.from_dict(values, config)


def _level(level: int, values: object, size: int) -> npt.NDArray[np.int32]:
    """Return one level as int32, having checked that every code is in 0..size-1."""
    if isinstance(values, np.ndarray) and values.dtype == np.int32 and values.ndim == 1:
        array: npt.NDArray[Any] = values
    else:
        array = whole_numbers(values, f"level {level}")
    if not array.size:
        raise CodesError(f"level {level} holds no codes")
    check_range(array, 0, size - 1, where=f"level {level}, ", noun="code", level=level)
    return array.astype(np.int32, copy=False)


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise CodesError(f"{name} must be a whole number, not {_shown(value)}")
    if not 1 <= value <= MAX_COUNT:
        raise CodesError(f"{name} {_shown(int(value))} is outside 1..{MAX_COUNT}")
    return int(value)


def _shown(value: object) -> str:
    """Return a value for a message, short however large the value is."""
    if isinstance(value, (str, bytes, Sequence, Mapping)):
        return f"a {type(value).__name__} of length {len(value)}"
    if isinstance(value, int) and not -(10**30) < value < 10**30:
        return "a number of more than 30 digits"
    return str(value) if isinstance(value, (int, float, type(None))) else type(value).__name__
