"""The model being served: loading at start, hot reload and rollback.

A watched model store is polled every few seconds. A new current version is verified, loaded
strictly, checked on its golden clip and warmed up while the old version serves, and only then
replaces it. If any step fails, the old version stays, the reason is recorded, and the version is
not tried again until its files change.

A request takes the codec once, at its start, and keeps it to its end; the old weights are freed
after the last such request.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import functools
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog
import torch

import snac_core
from service.errors import NotReadyError, ReloadError
from service.models.catalog import Catalog, Entry
from service.models.loader import Loader
from service.models.warmup import warm_up
from service.observability.metrics import Metrics
from service.settings import Settings
from snac_core.codec import Codec
from snac_core.errors import SnacError, StoreError, TokenSpaceError
from snac_core.store import ModelStore
from snac_core.utils.malloc import give_back_freed_memory

log = structlog.get_logger(__name__)

BUSY_SECONDS = 120.0
"""How long the store may take for one reload before another is refused."""

_POINTER = "current.json"
_Fingerprint = tuple[tuple[str, int, int], ...]


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a version is not served, and the fingerprint of its files at that time."""

    reason: str
    at: str
    fingerprint: _Fingerprint


@dataclasses.dataclass(frozen=True)
class VersionState:
    """One entry in the list of models."""

    version: str
    state: str
    token_space: str | None = None
    created: str | None = None
    parent: str | None = None
    reason: str | None = None
    failed_at: str | None = None


class ModelManager:
    """Loads models, polls the store, and holds the codec for new requests."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._codec: Codec | None = None
        self._served_since = ""
        self._failures: dict[str, Failure] = {}
        self._lock = threading.Lock()
        # A thread of its own: a download must not keep those that read and write waiting.
        self._loader = Loader("snac-reload")
        self.store: ModelStore | None = None
        if settings.model_store is not None:
            self.store = ModelStore(settings.model_store)
        elif ModelStore.is_store(Path(settings.model)):
            self.store = ModelStore(Path(settings.model))
        self._catalog = Catalog(self.store) if self.store else None
        metrics.store_age.set_function(lambda: self._catalog.age if self._catalog else 0.0)

    @property
    def store_state(self) -> Literal["fresh", "stale"] | None:
        """Whether the store has been read of late; None without one."""
        if self._catalog is None:
            return None
        return "stale" if self._catalog.age > self._settings.store_stale_seconds else "fresh"

    @property
    def codec(self) -> Codec:
        """The codec for a request that starts now.

        Raises
        ------
        NotReadyError
            Before the first model is loaded.
        """
        if self._codec is None:
            raise NotReadyError("no model is loaded yet")
        return self._codec

    @property
    def loaded(self) -> bool:
        """Whether a model is loaded."""
        return self._codec is not None

    @property
    def served_since(self) -> str:
        """When the current model began to serve: UTC, ISO 8601."""
        return self._served_since

    def load_first(self, on_progress: Callable[[str], None] = lambda step: None) -> Codec:
        """Load the first model: the store's current version, else ``SNAC_MODEL``.

        If the store's current version is damaged, the previous one is served and an error is
        logged. ``on_progress`` is called with a description of each step.

        Raises
        ------
        ModelError, ConfigError
            If no model can be loaded.
        """
        with self._lock:
            current = self.store.current() if self.store else None
            if self.store is None or current is None:
                on_progress(f"loading {self._settings.model}")
                codec = snac_core.load(
                    self._settings.model, self._settings.device, compile=self._settings.compile
                )
                warm_up(codec, on_progress)
                return self._serve(codec)
            try:
                return self._serve(self._load(self.store, current, on_progress))
            except Exception as error:
                previous = self.store.previous()
                self._note_failure(self.store, current, error)
                if previous is None:
                    raise
                log.error("serving the previous version", version=previous)
                return self._serve(self._load(self.store, previous, on_progress))

    def check(self, *, retry: bool = False, allow_token_space_change: bool = False) -> Codec:
        """Serve the store's current version if it is not being served yet.

        Parameters
        ----------
        retry
            Whether to retry a version that failed before and has not changed since.
        allow_token_space_change
            Whether to accept another token space; the setting of that name always does.

        Returns
        -------
        The codec being served.

        Raises
        ------
        ReloadError
            If there is no store, or its current version cannot be served; the old model stays.
        """
        if self.store is None:
            raise ReloadError(
                f"SNAC_MODEL is {self._settings.model!r} and SNAC_MODEL_STORE is not set: there "
                "is no model store to reload from"
            )
        with self._lock:
            return self._check(self.store, retry, allow_token_space_change)

    def roll_back(self, *, allow_token_space_change: bool = False) -> Codec:
        """Serve the store's previous version and make it current in the store.

        Raises
        ------
        ReloadError
            If there is none, it is damaged, or the store cannot be written; nothing changes.
        """
        if self.store is None:
            raise ReloadError("there is no model store to roll back in")
        with self._lock:
            try:
                target = self.store.previous()
                if target is None:
                    raise StoreError("the store has no previous version to roll back to")
                codec = self.codec
                if codec.version != target:
                    self._guard(self.store, target, allow_token_space_change)
                    codec = self._load(self.store, target)
                if self.store.roll_back() != target:
                    raise StoreError("somebody else changed the current version meanwhile")
            except Exception as error:
                _log_unforeseen(error)
                raise ReloadError(f"nothing was rolled back: {self._reason(error)}") from error
            if codec is not self._codec:
                self._metrics.reloads.labels(outcome="succeeded").inc()
                self._serve(codec)
            return codec

    async def run_in_loader(self, change: Callable[..., Codec], **how: bool) -> Codec:
        """Run `check` or `roll_back` in the thread that loads, while requests are answered.

        Raises
        ------
        ReloadError
            If that thread has been at something else for too long: the store hangs.
        """
        if self._loader.busy_seconds > BUSY_SECONDS:
            raise ReloadError(
                f"the model store has not answered for {self._loader.busy_seconds:.0f} s; the "
                "model being served stays"
            )
        return await asyncio.wrap_future(self._loader.submit(functools.partial(change, **how)))

    def look_soon(self) -> None:
        """Look at the store as `check` does with ``retry``, and wait for nothing."""

        def look() -> None:
            try:
                self.check(retry=True)
            except ReloadError as error:
                log.warning("nothing was reloaded", reason=str(error))

        self._loader.submit(look)

    def close(self) -> None:
        """Stop accepting reloads."""
        self._loader.close()
        if self._catalog is not None:
            self._catalog.close()

    async def watch(self) -> None:
        """Poll the store until cancelled."""
        while self.store is not None:
            await asyncio.sleep(self._settings.reload_interval)
            try:
                await self.run_in_loader(self.check)
            except ReloadError:
                continue  # logged when it was detected
            except Exception:
                log.exception("polling the model store failed; it continues")

    def describe(self) -> list[VersionState]:
        """List the versions in the store, and the model being served wherever it is from."""
        served, failures = self._codec, dict(self._failures)
        entries = self._catalog.entries() if self._catalog else []
        listed = {entry.version for entry in entries}
        # Such as one since removed, or the pointer to the current one.
        entries = entries + [Entry(name, None) for name in failures if name not in listed]
        states = [
            self._describe(entry, failures.get(entry.version))
            for entry in sorted(entries, key=lambda entry: entry.version)
        ]
        if served is not None and all(state.version != served.version for state in states):
            states.append(VersionState(served.version, "serving", served.token_space))
        return states

    def _describe(self, entry: Entry, failure: Failure | None) -> VersionState:
        manifest = entry.manifest
        reason = failure.reason if failure else self._said(entry.reason) if entry.reason else None
        state = "failed" if reason else "available"
        if self._codec is not None and entry.version == self._codec.version:
            state = "serving"
        return VersionState(
            entry.version,
            state,
            token_space=manifest.token_space if manifest else None,
            created=manifest.created if manifest else None,
            parent=manifest.parent if manifest else None,
            reason=reason,
            failed_at=failure.at if failure else None,
        )

    def _check(self, store: ModelStore, retry: bool, allow_change: bool) -> Codec:
        version = _POINTER
        try:
            version = store.current() or ""
            if self._catalog is not None:
                self._catalog.note_seen()
            self._failures.pop(_POINTER, None)
            if not version or version == self.codec.version:
                return self.codec
            known = self._failures.get(version)
            if known and not retry and known.fingerprint == _fingerprint(store, version):
                raise ReloadError(f"{version} is not served: {known.reason}")
            self._guard(store, version, allow_change)
            codec = self._load(store, version)
        except ReloadError:
            raise
        except Exception as error:
            self._note_failure(store, version, error)
            raise ReloadError(
                f"{version} is not served: {self._failures[version].reason}"
            ) from error
        self._metrics.reloads.labels(outcome="succeeded").inc()
        return self._serve(codec)

    def _guard(self, store: ModelStore, version: str, allow_change: bool) -> None:
        """Refuse another token space unless the operator allows it."""
        theirs, ours = store.manifest(version).token_space, self.codec.token_space
        if theirs != ours and not (allow_change or self._settings.allow_token_space_change):
            raise TokenSpaceError(
                f"its token space is {theirs} and {ours} is being served; set "
                "SNAC_ALLOW_TOKEN_SPACE_CHANGE=true or reload with ?allow_token_space_change=true"
            )

    def _load(
        self,
        store: ModelStore,
        version: str,
        on_progress: Callable[[str], None] = lambda step: None,
    ) -> Codec:
        """Load and warm up ``version``; loading checks its checksums and golden clip."""
        on_progress(f"loading {version}")
        codec = snac_core.load(
            store.path(version), self._settings.device, compile=self._settings.compile
        )
        warm_up(codec, on_progress)
        return codec

    def _serve(self, codec: Codec) -> Codec:
        # First, so that no list shows a version that is served as failed.
        self._failures.pop(codec.version, None)
        self._codec = codec
        self._served_since = _now()
        self._metrics.serving(codec.version, codec.token_space, codec.device)
        log.info(
            "model served",
            version=codec.version,
            token_space=codec.token_space,
            device=str(codec.device),
            precision=codec.precision,
        )
        gc.collect()
        give_back_freed_memory()
        if codec.device.type == "cuda":
            torch.cuda.empty_cache()
        return codec

    def _note_failure(self, store: ModelStore, version: str, error: Exception) -> None:
        if version == _POINTER and version in self._failures:
            return  # reported already
        self._metrics.reloads.labels(outcome="failed").inc()
        log.error("version not served", version=version, reason=str(error))
        _log_unforeseen(error)
        self._failures[version] = Failure(self._reason(error), _now(), _fingerprint(store, version))

    def _reason(self, error: Exception) -> str:
        """Return an error's message for clients, without the path of the store."""
        return self._said(str(error) or type(error).__name__)

    def _said(self, said: str) -> str:
        if self.store is None:
            return said
        root = str(self.store.root)
        return said.replace(root + os.sep, "").replace(root, "the store")


def _log_unforeseen(error: Exception) -> None:
    """Log where an error came from that no file is expected to cause."""
    if not isinstance(error, (SnacError, OSError)):
        log.error("that was not foreseen", exc_info=error)


def _fingerprint(store: ModelStore, version: str) -> _Fingerprint:
    """Return names, sizes and times of a version's files; a change justifies a retry."""
    try:
        paths = [store.root / _POINTER, *store.path(version).iterdir()]
        stats = [(path.name, path.stat()) for path in sorted(paths)]
    except (OSError, StoreError):
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
