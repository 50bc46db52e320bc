"""What one published version says of itself, and the check that its files agree."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snac_core.errors import StoreError
from snac_core.utils.atomic_files import open_regular, read_regular

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
MODEL_CARD = "README.md"

MAX_MANIFEST_BYTES = 16 * 2**20

_SEAL = re.compile(rb'^ "sha256": "([0-9a-f]{64})",?\n', re.MULTILINE)


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
        seal = _SEAL.search(raw)
        if seal is None:
            raise StoreError("not a manifest (it has no sha256)")
        body = raw[: seal.start()] + raw[seal.end() :]
        if hashlib.sha256(body).hexdigest().encode() != seal[1]:
            raise StoreError("changed since it was written: its sha256 does not match")
        try:
            values = json.loads(body)
            _check_types(values)
            values["golden"] = tuple(tuple(level) for level in values["golden"])
            return cls(**{key: values[key] for key in _fields(cls) if key in values})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(f"not a manifest ({error})") from error

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return dataclasses.asdict(self)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the version in ``folder``; StoreError if it is not whole."""
    path = folder / MANIFEST
    try:
        return Manifest.from_bytes(read_regular(path, MAX_MANIFEST_BYTES))
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
    for name in manifest.files:
        if Path(name).name != name:
            raise StoreError(f"{folder / MANIFEST} names {name!r}, which is not a plain file name")
        try:
            with open_regular(folder / name) as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise StoreError(f"{folder / name} cannot be read: {error.strerror}") from error
        _check_digest(folder / name, manifest, actual)
    return manifest


def read_verified(folder: Path, manifest: Manifest, name: str, most: int) -> bytes:
    """Return the contents of one file of a version: what is returned is what was checked.

    Raises
    ------
    StoreError
        If it is missing, unreadable, longer than ``most`` bytes or not the one that was
        published.
    """
    try:
        data = read_regular(folder / name, most)
    except OSError as error:
        raise StoreError(f"{folder / name} cannot be read: {error.strerror}") from error
    _check_digest(folder / name, manifest, hashlib.sha256(data).hexdigest())
    return data


def _check_digest(path: Path, manifest: Manifest, actual: str) -> None:
    expected = manifest.files[path.name]
    if actual != expected:
        raise StoreError(
            f"{path} is not the file that was published: its sha256 is {actual}, "
            f"the manifest has {expected}"
        )


def to_json(values: Mapping[str, Any]) -> bytes:
    """Return ``values`` as JSON, always the same for the same; StoreError if it cannot be."""
    try:
        return json.dumps(values, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
    except (ValueError, TypeError) as error:
        raise StoreError(f"a model store cannot hold this: {error}") from error


def _fields(kind: type[Manifest]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _check_types(values: object) -> None:
    """Raise TypeError for a value that is not of its field's type: a seal proves no sense."""
    if not isinstance(values, dict):
        raise TypeError(f"it is a {type(values).__name__}")
    for names, kinds in (
        (("version", "token_space", "created"), (str,)),
        (("parent", "trainer_config_hash"), (str, type(None))),
        (("files", "metrics"), (dict,)),
        (("golden",), (list,)),
    ):
        for name in names:
            if name in values and not isinstance(values[name], kinds):
                raise TypeError(f"{name} is a {type(values[name]).__name__}")
    if not all(isinstance(digest, str) for digest in values["files"].values()):
        raise TypeError("files must give a sha256 for each name")
    for level in values["golden"]:
        if not isinstance(level, list) or not all(type(code) is int for code in level):
            raise TypeError("golden must be lists of whole numbers")


def _sealed(body: Mapping[str, Any]) -> bytes:
    return to_json({**body, "sha256": hashlib.sha256(to_json(body)).hexdigest()})
