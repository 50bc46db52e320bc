"""What the client takes for audio and for tokens, and what is sent of it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile

from snac_core.types import Samples

AudioInput: TypeAlias = "bytes | str | os.PathLike[str] | BinaryIO | Samples | Any"
"""The bytes of a file, a path, an open binary file, or samples in an array, tensor or list."""

MOST_CHANNELS = 8

_FULL_SCALE = {"int16": 2**15, "int32": 2**31}


def audio_bytes(source: AudioInput, sample_rate: int | None) -> bytes:
    """Return the bytes of an audio file.

    Floats are sent as they are, full scale being 1; int16 and int32 are scaled, and uint8 is
    taken as the 8 bits of a WAV file. Of two axes, the one of at most 8 is the channels.

    Raises
    ------
    ValueError
        For samples without a rate, or of a shape or type that is not clear.
    OSError
        If a file cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, (str, os.PathLike)):
        return Path(source).read_bytes()
    if hasattr(source, "read"):
        data = source.read()
        if not isinstance(data, bytes):
            raise ValueError("the file was opened as text: open(path, 'rb') gives its bytes")
        return data
    samples = frames_of(source)
    if sample_rate is None:
        raise ValueError("samples need their sample_rate, in Hz")
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def frames_of(samples: Any) -> Samples:
    """Return float samples, [T] or [T x channels]; see `audio_bytes`."""
    array = array_of(samples)
    kind = array.dtype.name
    if kind in _FULL_SCALE:
        array = array.astype(np.float64) / _FULL_SCALE[kind]
    elif kind == "uint8":
        array = (array.astype(np.float64) - 128) / 128
    elif array.dtype.kind != "f":
        raise ValueError(
            f"samples of type {kind} and shape {array.shape} have no known full scale: pass "
            "floats within -1..1, int16 or int32"
        )
    # Batches of one: [1 x T], [1 x 1 x T].
    while array.ndim > 1 and 1 in array.shape:
        array = array.squeeze(array.shape.index(1))
    if array.ndim == 2:
        small = [axis for axis in (0, 1) if array.shape[axis] <= MOST_CHANNELS]
        if len(small) == 1:
            array = array.T if small == [0] else array
    if array.ndim not in (1, 2) or (array.ndim == 2 and len(small) != 1):
        raise ValueError(
            f"samples of shape {np.shape(samples)} are neither one channel nor up to "
            f"{MOST_CHANNELS} channels of one recording; encode_batch takes several recordings"
        )
    return np.ascontiguousarray(array, np.float32)


def mono(samples: Any) -> Samples:
    """Return float samples of one channel, [T]; see `audio_bytes`."""
    frames = frames_of(samples)
    if frames.ndim != 1:
        raise ValueError(f"a stream takes one channel, not samples of shape {np.shape(samples)}")
    return frames


def array_of(values: Any) -> npt.NDArray[Any]:
    """Return an array of what is one, a tensor, or lists.

    Raises
    ------
    ValueError
        For lists of unequal lengths, and what are no numbers.
    """
    if hasattr(values, "detach"):  # a tensor, which need not be imported for this
        values = values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{type(values).__name__} of {array.dtype} is no array of numbers")
    return array


def plain_tokens(tokens: Any) -> Any:
    """Return tokens as JSON holds them: numbers, strings and lists."""
    if hasattr(tokens, "detach"):
        tokens = tokens.detach().cpu().numpy()
    if isinstance(tokens, (np.ndarray, np.generic)):
        return tokens.tolist()
    if isinstance(tokens, (list, tuple)):
        return [plain_tokens(item) if not isinstance(item, int) else item for item in tokens]
    return tokens
