"""Keys: secrets with names, from variables and files, compared without telling by time."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from pathlib import Path

MIN_LENGTH = 8


@dataclasses.dataclass(frozen=True)
class Key:
    """A secret, and the name under which logs and limits know whoever holds it."""

    name: str
    secret: str = dataclasses.field(repr=False)


def split(text: str) -> list[str]:
    """Return the secrets of a list with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_file(path: Path) -> list[tuple[str, str]]:
    """Return (secret, name) of each line ``SECRET [NAME]``; ``#`` begins a comment line.

    Raises
    ------
    ValueError
        For a file that cannot be read or has no key in it.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    found = []
    for line in lines:
        secret, _, name = line.strip().partition(" ")
        if secret and not secret.startswith("#"):
            found.append((secret, name.strip()))
    if not found:
        raise ValueError(f"{path} has no key; write one on each line, a name may follow it")
    return found


def keyring(named: Iterable[tuple[str, str]]) -> tuple[Key, ...]:
    """Return keys of (secret, name) pairs; one without a name is called by its place.

    Raises
    ------
    ValueError
        For a secret that is too short or two keys of one name.
    """
    keys = tuple(
        Key(name or f"key-{place}", secret) for place, (secret, name) in enumerate(named, start=1)
    )
    for key in keys:
        if len(key.secret) < MIN_LENGTH:
            raise ValueError(f"{key.name} has fewer than {MIN_LENGTH} characters")
    if len({key.name for key in keys}) < len(keys):
        raise ValueError("two keys have the same name")
    return keys


def find(keys: Sequence[Key], given: str) -> Key | None:
    """Return the key whose secret was given, looking at all of them whichever it is."""
    digest = hashlib.sha256(given.encode()).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(digest, hashlib.sha256(key.secret.encode()).digest()):
            found = key
    return found
