"""Every error this package raises on purpose.

    SnacError
    ├── AudioError              the bytes or samples are not usable audio
    │   └── AudioTooLongError   they are, but last longer than the caller allows
    ├── CodesError              codes that no codec of this shape could have written
    │   └── LayoutError         a token sequence that does not follow its layout
    ├── TokenSpaceError         codes from one token space given to a model of another
    ├── ConfigError             a model configuration that cannot be built
    └── ModelError              a model that cannot be found, read or trusted
        └── StoreError          a model store, or one version in it, is not whole

Messages name the value that was wrong and what would be right; callers map the
class to an exit code or an HTTP status in one place.
"""

from __future__ import annotations


class SnacError(Exception):
    """Base of every error raised on purpose."""


class AudioError(SnacError):
    """Bytes or samples that are not usable audio."""


class AudioTooLongError(AudioError):
    """Audio that lasts longer than the caller allows."""


class CodesError(SnacError):
    """Codes that no codec of this shape could have written.

    Parameters
    ----------
    message
        What is wrong, in words.
    level, index, value, legal
        Where that is one code: its level (or row of a layout), its place there, what it
        is, and the range it should be in; None where it is not.
    """

    def __init__(
        self,
        message: str,
        *,
        level: int | None = None,
        index: int | None = None,
        value: int | None = None,
        legal: str | None = None,
    ) -> None:
        super().__init__(message)
        self.level, self.index, self.value, self.legal = level, index, value, legal


class LayoutError(CodesError):
    """A token sequence that does not follow its layout."""


class TokenSpaceError(SnacError):
    """Codes from one token space given to a model of another."""


class ConfigError(SnacError):
    """A model configuration that cannot be built."""


class ModelError(SnacError):
    """A model that cannot be found, read or trusted."""


class StoreError(ModelError):
    """A model store, or one version in it, that is not whole."""


class KernelsError(ModelError):
    """The compiled part can be neither found nor built on this machine."""
