"""Detects whether a resumed run has the recordings that it had before it stopped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainer.data.recordings import Clip, opened
from trainer.data.sources import TrainingData

log = logging.getLogger(__name__)

SAMPLE_BYTES = 4096
"""Of a validation recording's file, from its middle: two edits of one length differ there."""


class Fingerprint(NamedTuple):
    """A fingerprint of data that does not depend on their location."""

    recordings: int
    """To train on."""
    seconds: float
    training: str
    """Digest of names and lengths of the recordings to train on."""
    validation: str
    """Digest of names, lengths and some contents of the recordings that are validated on, and of
    the names of their sets."""


def fingerprint(
    data: TrainingData, validation: Sequence[Clip], named: Mapping[str, Sequence[Clip]]
) -> Fingerprint:
    """Return the fingerprint of a run's training data and validation segments.

    Parameters
    ----------
    data
        To train on.
    validation, named
        Recordings of the main set's segments, and of other sets' by name.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, clips in {"": validation, **named}.items():
        digest.update(name.encode())
        for clip in clips:
            digest.update(repr((clip.path.name, clip.frames, clip.sample_rate)).encode())
            digest.update(_sample(clip))
    return Fingerprint(data.recordings, round(data.seconds, 3), data.digest(), digest.hexdigest())


def same_validation(before: Mapping[str, Any], now: Fingerprint) -> bool:
    """Return whether the validation recordings are those of ``before``, a fingerprint's fields.

    Other recordings to train on are logged.
    """
    if before["training"] != now.training:
        then = f"{before['recordings']} recordings, {before['seconds'] / 3600:.2f} h"
        log.warning(
            "the recordings to train on are not those of before: %s then; %d recordings, %.2f h "
            "now. Epochs and the learning rate follow those of now, and what is left of this "
            "epoch may have some again and others not at all",
            *(then, now.recordings, now.seconds / 3600),
        )
    return bool(before["validation"] == now.validation)


def _sample(clip: Clip) -> bytes:
    try:
        with opened(clip) as source:
            if isinstance(source, Path):
                with source.open("rb") as file:
                    return _middle(file)
            return _middle(source)
    except OSError:
        # Validation will say what is wrong with it.
        return b""


def _middle(file: Any) -> bytes:
    size = file.seek(0, 2)
    file.seek(max(0, (size - SAMPLE_BYTES) // 2))
    return bytes(file.read(SAMPLE_BYTES))
