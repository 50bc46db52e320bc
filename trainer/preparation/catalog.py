"""The state of `prepare` in a database, so that neither its memory nor the time of a second run
grows with the corpus.

One SQLite file beside what is prepared. It remembers what every recording was measured to
be, what is wanted this time, and what lies in ``train/`` and ``val/``.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from trainer.errors import TrainerError
from trainer.preparation.inputs import Found
from trainer.preparation.measure import Measured

PAGE = 2048
"""Rows in memory at a time."""

_TABLES = """
CREATE TABLE IF NOT EXISTS measured (
    source BLOB PRIMARY KEY, size INTEGER, modified INTEGER, frames INTEGER,
    sample_rate INTEGER, channels INTEGER, peak REAL, loudness REAL, fault TEXT, content BLOB,
    bandwidth REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS made (
    side TEXT, name TEXT, source BLOB, size INTEGER, modified INTEGER, how TEXT,
    PRIMARY KEY (side, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
DROP TABLE IF EXISTS skipped;
CREATE TABLE skipped (path BLOB PRIMARY KEY, suffix TEXT) WITHOUT ROWID;
DROP TABLE IF EXISTS wanted;
CREATE TABLE wanted (
    source BLOB PRIMARY KEY, reached BLOB, grp TEXT, draw BLOB, size INTEGER,
    modified INTEGER, side TEXT DEFAULT 'train', name TEXT, left_out TEXT
) WITHOUT ROWID;
"""
_INDICES = """
CREATE INDEX wanted_group ON wanted (draw, grp);
CREATE INDEX wanted_name_of_group ON wanted (grp);
CREATE UNIQUE INDEX wanted_name ON wanted (side, name);
CREATE INDEX wanted_draw ON wanted (side, draw, source);
"""
_READABLE = """
    FROM wanted JOIN measured USING (source)
    WHERE fault IS NULL AND left_out IS NULL
    AND measured.size = wanted.size AND measured.modified = wanted.modified
"""


class Wanted(NamedTuple):
    """A readable recording and where it goes."""

    source: bytes
    reached: bytes
    group: str
    size: int
    modified: int
    side: str
    name: str | None
    """Name in its side's folder."""
    seconds: float
    sample_rate: int
    """Hz."""
    channels: int
    peak: float
    loudness: float | None
    bandwidth: float | None
    """Hz; None where an earlier release measured it."""
    draw: bytes


class Made(NamedTuple):
    """A file in ``train/`` or ``val/``."""

    side: str
    name: str
    source: bytes
    size: int
    """Of its source, as ``modified`` is."""
    modified: int
    how: str


class Catalog:
    """The open file, locked against other processes.

    Parameters
    ----------
    path
        Made unless it is there.

    Raises
    ------
    TrainerError
        When another run has it open, or it is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._base = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        try:
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("PRAGMA journal_mode = DELETE")
            # What a power cut may take is measured again.
            self._base.execute("PRAGMA synchronous = OFF")
            self._base.executescript(f"BEGIN EXCLUSIVE; {_TABLES} COMMIT;")
            columns = [row[1] for row in self._base.execute("PRAGMA table_info(measured)")]
            for name, kind in (("content", "BLOB"), ("bandwidth", "REAL")):
                if name not in columns:
                    # Measured before there was one: what is known stays known.
                    self._base.execute(f"ALTER TABLE measured ADD COLUMN {name} {kind}")
        except sqlite3.OperationalError as error:
            self._base.close()
            raise TrainerError(f"{path} is in use by another run: {error}") from error
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise TrainerError(f"{path} is damaged, remove it: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def remove(self) -> None:
        """Remove the file; the catalog cannot be used afterwards."""
        self._base.close()
        self.path.unlink()

    def want(self, found: Iterable[Found]) -> int:
        """Take down what was found, each recording once; return how many there are."""
        left = iter(found)
        while page := list(islice(left, PAGE)):
            # Of two ways to a recording the same one counts, in whatever order they come.
            self._write(
                "INSERT INTO wanted (source, reached, grp, draw, size, modified) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (source) DO UPDATE SET "
                "reached = excluded.reached, grp = excluded.grp, draw = excluded.draw "
                "WHERE excluded.reached < wanted.reached",
                page,
            )
        self._base.executescript(_INDICES)
        return self._number("SELECT COUNT(*) FROM wanted")

    def skip(self, paths: Iterable[str]) -> None:
        """Take down files that are not read for their suffix."""
        self._write(
            "INSERT OR IGNORE INTO skipped VALUES (?, ?)",
            (
                (os.fsencode(path), os.path.splitext(path)[1].lower())  # noqa: PTH122
                for path in paths
            ),
        )

    def skipped(self) -> Iterator[tuple[bytes, str]]:
        """Yield each file that was skipped, and why."""
        for path, suffix in self._base.execute("SELECT path, suffix FROM skipped ORDER BY path"):
            yield path, f"its suffix {suffix or '(none)'} is not read"

    def skipped_suffixes(self) -> list[tuple[str, int, bytes]]:
        """Return each suffix that was skipped, how often, and one path."""
        return self._base.execute(
            "SELECT suffix, COUNT(*), MIN(path) FROM skipped GROUP BY suffix ORDER BY suffix"
        ).fetchall()

    def measured_as(self, channel: str) -> None:
        """Forget what was measured of another channel."""
        row = self._base.execute("SELECT value FROM about WHERE name = 'channel'").fetchone()
        if (row[0] if row else "average") != channel:
            self._base.execute("DELETE FROM measured")
        self._base.execute("INSERT OR REPLACE INTO about VALUES ('channel', ?)", (channel,))

    def need_bandwidth(self) -> None:
        """Have what an earlier release measured, without a bandwidth, measured again."""
        self._base.execute("UPDATE measured SET size = -1 WHERE bandwidth IS NULL")

    def unmeasured(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield source, size and change of what is new, has changed, or could not be reached."""
        yield from self._pages(
            "SELECT source, wanted.size, wanted.modified "
            "FROM wanted LEFT JOIN measured USING (source) WHERE source > ? AND "
            "(measured.size IS NOT wanted.size OR measured.modified IS NOT wanted.modified "
            "OR wanted.size < 0) ORDER BY source LIMIT ?",
            (b"",),
            lambda row: (row[0],),
        )

    def count_unmeasured(self) -> int:
        """Return how many `unmeasured` will yield."""
        return self._number(
            "SELECT COUNT(*) FROM wanted LEFT JOIN measured USING (source) "
            "WHERE measured.size IS NOT wanted.size OR measured.modified IS NOT wanted.modified "
            "OR wanted.size < 0"
        )

    def measured(self, rows: Iterable[tuple[tuple[bytes, int, int], Measured]]) -> None:
        """Take down what recordings were measured to be."""
        self._write(
            "INSERT OR REPLACE INTO measured (source, size, modified, frames, sample_rate, "
            "channels, peak, loudness, bandwidth, content, fault) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                # A fault that may pass is no reason not to look again.
                (source, size if result.lasting else -1, modified, *result[:-1])
                for (source, size, modified), result in rows
            ],
        )

    def faults(self) -> Iterator[tuple[bytes, str]]:
        """Yield how each recording that is left out was found, and why it is."""
        yield from self._base.execute(
            "SELECT reached, COALESCE(fault, left_out) FROM wanted JOIN measured USING (source) "
            "WHERE COALESCE(fault, left_out) IS NOT NULL ORDER BY reached"
        )

    def count_failed(self) -> int:
        """Return how many recordings cannot be read."""
        return self._number(
            "SELECT COUNT(*) FROM wanted JOIN measured USING (source) WHERE fault IS NOT NULL"
        )

    def groups(self) -> Iterator[tuple[str, int]]:
        """Yield each group that has readable recordings, with how many, in the draw's order."""
        yield from self._base.execute(f"SELECT grp, COUNT(*) {_READABLE} GROUP BY draw, grp")

    def leave_out(self, condition: str, limit: float, reason: str) -> None:
        """Leave out readable recordings.

        Parameters
        ----------
        condition
            In SQL, on what they were measured to be, with ``?`` for ``limit``.
        reason
            Why, for those who read the list.
        """
        self._base.execute(
            f"UPDATE wanted SET left_out = ? WHERE source IN (SELECT source {_READABLE} "
            f"AND {condition})",
            (reason, limit),
        )

    def count_where(self, condition: str) -> int:
        """Return how many readable recordings a condition in SQL holds for."""
        return self._number(f"SELECT COUNT(*) {_READABLE} AND {condition}")

    def on_both_sides(self) -> list[tuple[bytes, bytes]]:
        """Return recordings to validate on that sound like one to train on, and one of these."""
        # The readable ones of one side, with their digests.
        side = f"(SELECT reached, content {_READABLE} AND side = '{{}}' AND content != x'')"
        return self._base.execute(
            f"SELECT val.reached, MIN(train.reached) FROM {side.format('val')} AS val "
            f"JOIN {side.format('train')} AS train USING (content) "
            "GROUP BY val.reached ORDER BY val.reached"
        ).fetchall()

    def groups_among(self, groups: Iterable[str]) -> set[str]:
        """Return those of ``groups`` that anything found belongs to, readable or not."""
        query = "SELECT 1 FROM wanted WHERE grp = ? LIMIT 1"
        return {group for group in groups if self._base.execute(query, (group,)).fetchone()}

    def some_groups(self, count: int) -> list[str]:
        """Return the first ``count`` groups of what was found, in order."""
        query = "SELECT DISTINCT grp FROM wanted ORDER BY grp LIMIT ?"
        return [group for (group,) in self._base.execute(query, (count,))]

    def validate_on(self, groups: Iterable[str]) -> None:
        """Put groups on the validation side."""
        self._base.execute("CREATE TEMP TABLE chosen (grp TEXT PRIMARY KEY) WITHOUT ROWID")
        self._write("INSERT INTO chosen VALUES (?)", ((group,) for group in groups))
        self._base.execute("UPDATE wanted SET side = 'val' WHERE grp IN (SELECT grp FROM chosen)")
        self._base.execute("DROP TABLE chosen")

    def count(self, side: str | None = None) -> int:
        """Return how many readable recordings there are, or how many on one side."""
        return self._number(f"SELECT COUNT(*) {_READABLE} AND side = COALESCE(?, side)", side)

    def recordings(self) -> Iterator[Wanted]:
        """Yield the readable recordings by where they are."""
        yield from self._wanted("source > ? ORDER BY source", (b"",), lambda row: (row.source,))

    def shuffled(self, side: str) -> Iterator[Wanted]:
        """Yield the readable recordings of one side in the order of a hash of their place."""
        yield from self._wanted(
            "side = ? AND (draw, source) > (?, ?) ORDER BY side, draw, source",
            (side, b"", b""),
            lambda row: (row.side, row.draw, row.source),
        )

    def by_name(self) -> Iterator[Wanted]:
        """Yield the readable recordings by side and name."""
        yield from self._wanted(
            "name IS NOT NULL AND (side, name) > (?, ?) ORDER BY side, name",
            ("", ""),
            lambda row: (row.side, row.name),
        )

    def name(self, names: Iterable[tuple[str, bytes]]) -> None:
        """Give recordings, by source, their names."""
        self._write("UPDATE wanted SET name = ? WHERE source = ?", names)

    def try_name(self, name: str, source: bytes) -> bool:
        """Give one recording its name, unless another of its side has it."""
        try:
            self._base.execute("UPDATE wanted SET name = ? WHERE source = ?", (name, source))
        except sqlite3.IntegrityError:
            return False
        return True

    def made(self, side: str, name: str) -> Made | None:
        """Return what was made under a name."""
        row = self._base.execute(
            "SELECT * FROM made WHERE side = ? AND name = ?", (side, name)
        ).fetchone()
        return None if row is None else Made(*row)

    def make(self, files: Iterable[Made]) -> None:
        """Take down files that are about to be made."""
        self._write("INSERT OR REPLACE INTO made VALUES (?, ?, ?, ?, ?, ?)", files)

    def all_made(self, unwanted: bool = False) -> Iterator[Made]:
        """Yield what was made, or of it what is wanted no more."""
        yield from self._pages(
            "SELECT made.* FROM made LEFT JOIN wanted USING (side, name) WHERE (side, name) > "
            f"(?, ?) {'AND wanted.source IS NULL' if unwanted else ''} ORDER BY side, name LIMIT ?",
            ("", ""),
            lambda made: (made.side, made.name),
            Made._make,
        )

    def forget(self, files: Iterable[Made]) -> None:
        """Take down that files were removed."""
        self._write(
            "DELETE FROM made WHERE side = ? AND name = ?", [(file[0], file[1]) for file in files]
        )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write all that is written within at once, or nothing of it."""
        with self._base:
            self._base.execute("BEGIN")
            yield

    def _wanted(
        self, condition: str, first: tuple[Any, ...], key: Callable[[Wanted], tuple[Any, ...]]
    ) -> Iterator[Wanted]:
        before, order = condition.split(" ORDER BY ")
        yield from self._pages(
            f"SELECT {_COLUMNS} {_READABLE} AND {before} ORDER BY {order} LIMIT ?",
            first,
            key,
            Wanted._make,
        )

    def _pages(
        self,
        query: str,
        after: tuple[Any, ...],
        key: Callable[[Any], tuple[Any, ...]],
        build: Callable[[Any], Any] = tuple,
    ) -> Iterator[Any]:
        """Yield rows a page at a time, so that rows may be written in between."""
        while page := [build(row) for row in self._base.execute(query, (*after, PAGE))]:
            yield from page
            after = key(page[-1])

    def _write(self, statement: str, rows: Iterable[Any]) -> None:
        if self._base.in_transaction:
            self._base.executemany(statement, rows)
            return
        with self._base:
            self._base.execute("BEGIN")
            self._base.executemany(statement, rows)

    def _number(self, query: str, *values: Any) -> int:
        (number,) = self._base.execute(query, values).fetchone()
        return int(number)


_COLUMNS = """
    source, reached, grp, wanted.size, wanted.modified, side, name,
    CAST(frames AS REAL) / sample_rate, sample_rate, channels, peak, loudness,
    bandwidth, draw
"""
