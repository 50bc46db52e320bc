"""A cached list of a model store's versions.

Reading the store can block on its disk or network, so it runs in a thread of its own; callers
get the last known list meanwhile.
"""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

import structlog

from service.models.loader import Loader
from snac_core.errors import StoreError
from snac_core.store import ModelStore
from snac_core.store.manifest import MANIFEST, Manifest

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""How long a caller waits for a new listing."""

_State = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One version: its manifest, or why it has none that can be read."""

    version: str
    manifest: Manifest | None
    reason: str | None = None


class Catalog:
    """The versions of a store; each manifest is read once, and again when its file changes."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._loader = Loader("snac-catalog")
        self._looking: Future[list[Entry]] | None = None
        self._entries: list[Entry] = []
        self._known: dict[str, tuple[_State | None, Entry]] = {}
        self._seen = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the store was last read."""
        return time.monotonic() - self._seen

    def note_seen(self) -> None:
        """Note that the store has just been read."""
        self._seen = time.monotonic()

    def entries(self) -> list[Entry]:
        """Return all versions, oldest first; those of an earlier look if the store hangs."""
        if self._looking is None or self._looking.done():
            self._looking = self._loader.submit(self._look)
        try:
            return self._looking.result(LOOK_SECONDS)
        except FutureTimeoutError:
            log.warning("the model store does not answer", seconds=round(self.age))
        except StoreError as error:
            log.warning("the store cannot be listed", reason=str(error))
        return self._entries

    def close(self) -> None:
        """Stop reading the store."""
        self._loader.close()

    def _look(self) -> list[Entry]:
        found = [self._read(version) for version in self._store.versions()]
        self._known = {entry.version: self._known[entry.version] for entry in found}
        self._entries = found
        self.note_seen()
        return found

    def _read(self, version: str) -> Entry:
        state = self._state(version)
        known = self._known.get(version)
        if known is not None and known[0] == state and state is not None:
            return known[1]
        try:
            entry = Entry(version, self._store.manifest(version))
        except StoreError as error:
            entry = Entry(version, None, str(error))
        self._known[version] = (state, entry)
        return entry

    def _state(self, version: str) -> _State | None:
        try:
            stat = (self._store.root / "versions" / version / MANIFEST).stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns
