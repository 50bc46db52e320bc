"""API keys: named secrets from variables and files, compared in constant time."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from pathlib import Path

MIN_LENGTH = 8


@dataclasses.dataclass(frozen=True)
class Key:
    """A secret, and the name of its holder in logs and rate limits."""

    name: str
    secret: str = dataclasses.field(repr=False)


def split(text: str) -> list[str]:
    """Return the secrets in a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_file(path: Path) -> list[tuple[str, str]]:
    """Return (secret, name) of each line ``SECRET [NAME]``; ``#`` starts a comment line.

    Raises
    ------
    ValueError
        For a file that cannot be read or contains no key.
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
    """Return keys from (secret, name) pairs; a key without a name is named by its position.

    Raises
    ------
    ValueError
        For a secret that is too short, or for duplicate names.
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
    """Return the key with this secret, or None; always compares with all keys."""
    digest = hashlib.sha256(given.encode()).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(digest, hashlib.sha256(key.secret.encode()).digest()):
            found = key
    return found
