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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog
import torch

import snac_core
from service.errors import NotReadyError, ReloadError
from service.models.warmup import warm_up
from service.observability.metrics import Metrics
from service.settings import Settings
from snac_core.codec import Codec
from snac_core.errors import SnacError, StoreError, TokenSpaceError
from snac_core.store import ModelStore
from snac_core.utils.malloc import give_back_freed_memory

log = structlog.get_logger(__name__)

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
        # A separate thread: a download must not block the I/O threads.
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="snac-reload")
        self.store: ModelStore | None = None
        if settings.model_store is not None:
            self.store = ModelStore(settings.model_store)
        elif ModelStore.is_store(Path(settings.model)):
            self.store = ModelStore(Path(settings.model))

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
            except SnacError as error:
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
            except SnacError as error:
                raise ReloadError(f"nothing was rolled back: {self._reason(error)}") from error
            if codec is not self._codec:
                self._metrics.reloads.labels(outcome="succeeded").inc()
                self._serve(codec)
            return codec

    async def run_in_loader(self, change: Callable[..., Codec], **how: bool) -> Codec:
        """Run `check` or `roll_back` in the loading thread, while requests are served."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._loading, functools.partial(change, **how))

    def close(self) -> None:
        """Start no more reloads."""
        self._loading.shutdown(wait=False, cancel_futures=True)

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
        """List the versions in the store, and the model being served wherever it came from."""
        served = self._codec
        states = []
        for version in self._listed():
            failure = self._failures.get(version)
            state = "failed" if failure else "available"
            if served is not None and version == served.version:
                state = "serving"
            states.append(self._describe(version, state, failure))
        if served is not None and all(state.version != served.version for state in states):
            states.append(VersionState(served.version, "serving", served.token_space))
        return states

    def _listed(self) -> list[str]:
        """Return the store's versions and failed ones that may have been removed since."""
        try:
            known = self.store.versions() if self.store else []
        except StoreError as error:
            log.warning("the store cannot be listed", reason=str(error))
            known = []
        return sorted({*known, *self._failures})

    def _describe(self, version: str, state: str, failure: Failure | None) -> VersionState:
        reason = failure.reason if failure else None
        failed_at = failure.at if failure else None
        try:
            manifest = self.store.manifest(version) if self.store else None
        except StoreError as error:
            state = "serving" if state == "serving" else "failed"
            reason = reason or self._reason(error)
            return VersionState(version, state, reason=reason, failed_at=failed_at)
        return VersionState(
            version,
            state,
            token_space=manifest.token_space if manifest else None,
            created=manifest.created if manifest else None,
            parent=manifest.parent if manifest else None,
            reason=reason,
            failed_at=failed_at,
        )

    def _check(self, store: ModelStore, retry: bool, allow_change: bool) -> Codec:
        version = _POINTER
        try:
            version = store.current() or ""
            self._failures.pop(_POINTER, None)
            if not version or version == self.codec.version:
                return self.codec
            known = self._failures.get(version)
            if known and not retry and known.fingerprint == _fingerprint(store, version):
                raise ReloadError(f"{version} is not served: {known.reason}")
            self._guard(store, version, allow_change)
            codec = self._load(store, version)
        except (SnacError, OSError, RuntimeError) as error:
            if isinstance(error, ReloadError):
                raise
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
        self._codec = codec
        self._failures.pop(codec.version, None)
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
        self._failures[version] = Failure(self._reason(error), _now(), _fingerprint(store, version))

    def _reason(self, error: Exception) -> str:
        """Return an error's message for clients, without the path of the store."""
        said = str(error)
        if self.store is None:
            return said
        root = str(self.store.root)
        return said.replace(root + os.sep, "").replace(root, "the store")


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
