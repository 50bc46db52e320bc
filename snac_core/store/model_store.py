"""Versions of a model on a volume, where a trainer publishes and services look.

    ROOT/
      versions/<version>/config.json  model.safetensors  manifest.json  [README.md]
      current.json          {"version": ..., "previous": ...}
      .lock

A version is written into a temporary folder beside its place, synced, and renamed, so it is
there whole or not at all; ``current.json`` is replaced the same way. Readers take no lock,
need no write access, and notice changes by reading ``current.json`` again. Writers that
change which versions there are, or which is current, hold ``.lock``; a process that dies
lets go of it.

Works on any POSIX file system with atomic renames and `flock`: plain folders, Docker
volumes, NFS version 4. NFS clients cache, so another machine may see a new version some
seconds later, and may for a moment find ``current.json`` ahead of the folder it names:
a StoreError then, and whole at the next look.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.errors import StoreError
from snac_core.store import manifest as manifests
from snac_core.store.golden import golden_levels
from snac_core.store.identity import content_hash, token_space
from snac_core.store.manifest import CONFIG, MANIFEST, MODEL_CARD, WEIGHTS, Manifest, to_json
from snac_core.store.weights import build, canonical
from snac_core.utils import atomic_files

VERSION_ID = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[0-9a-f]{8}")
_MOST_POINTER_BYTES = 2**16
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pointer:
    """The contents of ``current.json``."""

    version: str
    previous: str | None

    def named(self) -> list[str]:
        """Return the versions it names."""
        return [self.version] if self.previous is None else [self.version, self.previous]


class ModelStore:
    """A folder of published versions, one of them current.

    Parameters
    ----------
    root
        The folder. Publishing creates it; until then the store is empty.

    Notes
    -----
    Every method raises StoreError if the store is not whole or cannot be read or written.
    Version ids sort by time: ``20261122T141530.123456Z-3fa9c1d2`` is UTC and a hash of the
    configuration and weights.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @staticmethod
    def is_store(folder: Path) -> bool:
        """Whether ``folder`` looks like a model store, whole or not."""
        store = ModelStore(folder)
        return store._versions.is_dir() or store._pointer_path.exists()

    # Reading

    def current(self) -> str | None:
        """Return the id of the current version; None if none was ever made current."""
        pointer = self._pointer()
        return pointer.version if pointer else None

    def previous(self) -> str | None:
        """Return the id of the version that was current before, to which `roll_back` goes."""
        pointer = self._pointer()
        return pointer.previous if pointer else None

    def versions(self) -> list[str]:
        """Return the ids of all versions, oldest first."""
        try:
            names = [path.name for path in self._versions.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self._versions} cannot be read: {error.strerror}") from error
        return sorted(name for name in names if VERSION_ID.fullmatch(name))

    def list(self) -> list[Manifest]:
        """Return the manifests of all versions, oldest first.

        One whose manifest is damaged is logged and left out; `verify` says what is wrong.
        """
        found = []
        for version in self.versions():
            try:
                found.append(self.manifest(version))
            except StoreError as error:
                _log.warning("version left out of the list: %s", error)
        return found

    def path(self, version: str) -> Path:
        """Return the folder of ``version``."""
        if not VERSION_ID.fullmatch(version):
            raise StoreError(
                f"{version!r} is not a version id such as '20261122T141530.123456Z-3fa9c1d2'"
            )
        folder = self._versions / version
        if not folder.is_dir():
            raise StoreError(f"{self.root} holds no version {version}")
        return folder

    def manifest(self, version: str) -> Manifest:
        """Return the manifest of ``version``, having checked it but not the other files."""
        return self._named(manifests.read_manifest(self.path(version)), version)

    def verify(self, version: str) -> Manifest:
        """Check the sha256 of every file of ``version`` and return its manifest."""
        return self._named(manifests.verify(self.path(version)), version)

    # Writing

    def publish(
        self,
        config: SnacConfig,
        state_dict: Mapping[str, Tensor],
        *,
        metrics: Mapping[str, Any] | None = None,
        parent: str | None = None,
        trainer_config: Mapping[str, Any] | None = None,
        make_current: bool = True,
        model_card: str | None = None,
    ) -> str:
        """Add a version and, unless told otherwise, make it current.

        Weights are stored in the precision they come in. Killed at any moment, this leaves
        the store as it was, or with the version, or with the version current.

        Parameters
        ----------
        config, state_dict
            The model; in any form that `snac_core.weights.build` accepts.
        metrics
            JSON-ready figures for the manifest.
        parent
            What the model was trained from.
        trainer_config
            JSON-ready; only its hash is kept.
        model_card
            Markdown, kept as the version's README.md.

        Returns
        -------
        The id of the new version.

        Raises
        ------
        ModelError
            If the weights do not fit the configuration or are not finite.
        StoreError
            If the store cannot be written, as on a full disk: it is as whole as before.
        """
        model = build(config, state_dict)
        space = token_space(config, state_dict)
        now = datetime.datetime.now(datetime.UTC)
        version = f"{now:%Y%m%dT%H%M%S.%fZ}-{content_hash(config, state_dict)}"
        golden = golden_levels(Codec(model, version=version, token_space=space))

        contents = {
            CONFIG: to_json(config.to_dict()),
            WEIGHTS: safetensors.torch.save(canonical(state_dict)),
        }
        if model_card is not None:
            contents[MODEL_CARD] = model_card.encode()
        contents[MANIFEST] = Manifest(
            version=version,
            token_space=space,
            created=now.isoformat(),
            files={name: _sha256(data) for name, data in contents.items()},
            golden=golden,
            parent=parent,
            metrics=dict(metrics or {}),
            trainer_config_hash=None
            if trainer_config is None
            else _sha256(to_json(trainer_config)),
        ).to_bytes()
        self._add(version, contents, make_current)
        return version

    def set_current(self, version: str) -> None:
        """Make ``version`` current, having verified it."""
        with self._lock():
            self.verify(version)
            self._point_to(version)

    def roll_back(self) -> str:
        """Make the previous version current, having verified it, and return its id.

        The version rolled back from becomes the previous one, so that rolling back twice
        returns to it.
        """
        with self._lock():
            previous = self.previous()
            if previous is None:
                raise StoreError(f"{self.root} has no previous version to roll back to")
            self.verify(previous)
            self._point_to(previous)
        return previous

    def prune(self, keep: int, stale_seconds: float = 3600.0) -> Sequence[str]:
        """Remove all but the newest ``keep`` versions, the current and the previous one.

        Also removes what publishers that died left behind, if untouched for
        ``stale_seconds``.

        Returns
        -------
        The ids of the versions removed, oldest first.
        """
        if keep < 1:
            raise StoreError(f"prune must keep at least 1 version, not {keep}")
        with self._lock():
            spared = {self.current(), self.previous(), *self.versions()[-keep:]}
            removed = [version for version in self.versions() if version not in spared]
            doomed = [self._retire(version) for version in removed]
        now = time.time()
        for folder in (self.root, self._versions):
            for path in folder.glob(f"{atomic_files.TEMPORARY}*"):
                with contextlib.suppress(FileNotFoundError):  # its owner, or another prune
                    if now - path.stat().st_mtime > stale_seconds:
                        doomed.append(path)
        for path in doomed:
            atomic_files.remove(path)
        return removed

    # The steps on disk

    @property
    def _versions(self) -> Path:
        return self.root / "versions"

    @property
    def _pointer_path(self) -> Path:
        return self.root / "current.json"

    def _lock(self) -> AbstractContextManager[None]:
        return atomic_files.locked(self.root / ".lock")

    def _pointer(self) -> Pointer | None:
        path = self._pointer_path
        try:
            values = json.loads(atomic_files.read_regular(path, _MOST_POINTER_BYTES))
            pointer = Pointer(values["version"], values["previous"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(
                f"{path} is damaged; remove it and set the current version again"
            ) from error
        for version in pointer.named():
            if not isinstance(version, str) or not VERSION_ID.fullmatch(version):
                raise StoreError(f"{path} names {version!r}, which is not a version id")
        return pointer

    def _named(self, manifest: Manifest, version: str) -> Manifest:
        if manifest.version != version:
            raise StoreError(f"{self.path(version)} holds the manifest of {manifest.version}")
        return manifest

    def _add(self, version: str, contents: Mapping[str, bytes], make_current: bool) -> None:
        place = self._versions / version
        staging = atomic_files.temporary(place)
        try:
            atomic_files.make_folder(self._versions)
            staging.mkdir()
            for name, data in contents.items():
                atomic_files.write(staging / name, data)
            atomic_files.sync(staging)
            # Under one lock, so that no pruning comes between the version and the pointer.
            with self._lock():
                staging.rename(place)
                atomic_files.sync(self._versions)
                if make_current:
                    self._point_to(version)
        except OSError as error:
            raise StoreError(f"{self.root}: cannot publish {version}: {error}") from error
        finally:
            if staging.exists():
                atomic_files.remove(staging)

    def _point_to(self, version: str) -> None:
        pointer = self._pointer()
        if pointer and pointer.version == version:
            return
        values = {"version": version, "previous": pointer.version if pointer else None}
        try:
            atomic_files.replace(self._pointer_path, to_json(values))
        except OSError as error:
            raise StoreError(
                f"{version} is in the store, but {self._pointer_path} cannot be replaced to make "
                f"it current: {error.strerror}"
            ) from error

    def _retire(self, version: str) -> Path:
        """Take ``version`` out of the list in one step, and return what is left to remove."""
        path = self.path(version)
        try:
            return path.rename(atomic_files.temporary(path))
        except OSError as error:
            raise StoreError(f"{path} cannot be removed: {error.strerror}") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
