"""Type aliases that several folders share."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float32]
"""Samples of one channel, [T]; full scale is 1."""

Levels: TypeAlias = tuple[npt.NDArray[np.int32], ...]
"""Codes of one clip, level by level, coarse to fine."""

Kind: TypeAlias = Literal["encode", "decode", "stream-encode", "stream-decode"]

NoiseMode: TypeAlias = Literal["seeded", "off"]

Precision: TypeAlias = Literal["fp32", "bf16"]

Compile: TypeAlias = Literal["auto", "on", "off"]

Incomplete: TypeAlias = Literal["refuse", "drop"]
"""What becomes of the tokens of a last frame that is not whole."""

Invalid: TypeAlias = Literal["refuse", "skip"]
"""What becomes of a frame with a token that its place does not allow."""
