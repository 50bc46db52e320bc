"""What one published version says of itself, and the check that its files agree."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snac_core.errors import StoreError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
MODEL_CARD = "README.md"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of a version's ``manifest.json``.

    Parameters
    ----------
    version
        The version's id.
    token_space
        See `snac_core.identity.token_space`.
    created
        When it was published: UTC, ISO 8601.
    files
        The sha256 of each of its other files, by name.
    golden
        Codes of the golden clip, one list per level; see `snac_core.golden`.
    parent
        What it was trained from: a version id or any other reference. None if nothing.
    metrics
        What the trainer measured.
    trainer_config_hash
        The sha256 of the trainer's configuration. None if it was not given.
    """

    version: str
    token_space: str
    created: str
    files: Mapping[str, str]
    golden: tuple[tuple[int, ...], ...]
    parent: str | None = None
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trainer_config_hash: str | None = None

    def to_bytes(self) -> bytes:
        """Return the file's contents, sealed with a sha256 of the rest.

        Raises
        ------
        StoreError
            If a metric is something that JSON cannot hold, such as NaN.
        """
        return _sealed(dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """Parse the file's contents; StoreError unless they are exactly what was sealed.

        Keys that a later release may have added are ignored.
        """
        try:
            body = json.loads(raw)
            body.pop("sha256")
            intact = _sealed(body) == raw
            body["golden"] = tuple(tuple(level) for level in body["golden"])
            known = [field.name for field in dataclasses.fields(cls)]
            manifest = cls(**{key: body[key] for key in known if key in body})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"not a manifest ({error})") from error
        if not intact:
            raise StoreError("changed since it was written: its sha256 does not match")
        return manifest

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return dataclasses.asdict(self)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the version in ``folder``; StoreError if it is not whole."""
    path = folder / MANIFEST
    try:
        return Manifest.from_bytes(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error


def verify(folder: Path) -> Manifest:
    """Check every file of the version in ``folder`` against its manifest, and return that.

    Raises
    ------
    StoreError
        If a file is missing, unreadable or not the one that was published, naming it.
    """
    manifest = read_manifest(folder)
    for name in (CONFIG, WEIGHTS):
        if name not in manifest.files:
            raise StoreError(f"{folder / MANIFEST} has no sha256 for {name}")
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise StoreError(f"{folder / MANIFEST} names {name!r}, which is not a plain file name")
        try:
            with (folder / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise StoreError(f"{folder / name} cannot be read: {error.strerror}") from error
        if actual != expected:
            raise StoreError(
                f"{folder / name} is not the file that was published: its sha256 is {actual}, "
                f"the manifest has {expected}"
            )
    return manifest


def to_json(values: Mapping[str, Any]) -> bytes:
    """Return ``values`` as JSON, always the same for the same; StoreError if it cannot be."""
    try:
        return json.dumps(values, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
    except (ValueError, TypeError) as error:
        raise StoreError(f"a model store cannot hold this: {error}") from error


def _sealed(body: Mapping[str, Any]) -> bytes:
    return to_json({**body, "sha256": hashlib.sha256(to_json(body)).hexdigest()})
