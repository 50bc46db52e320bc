"""A Kaldi data folder: ``wav.scp``, with ``segments``, ``text``, ``utt2spk`` and others."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

import pyarrow as pa

from bulk import filesystems
from bulk.errors import SourceError
from bulk.sources.clips import ROWS, table_of
from bulk.sources.manifest import clip_row

COLUMNS = {"text": "text", "utt2spk": "speaker", "utt2lang": "language", "utt2gender": "gender"}


class KaldiSource:
    """The utterances of ``segments``, or the recordings of ``wav.scp`` where there are none.

    A recording that is a command (it ends in ``|``) is not run: it fails, and the reason says so.

    Parameters
    ----------
    place
        The folder, or its ``wav.scp``. Paths are relative to the folder.
    """

    def __init__(self, place: str) -> None:
        self.folder = filesystems.parent(place) if place.endswith(".scp") else place
        self.scp = place if place.endswith(".scp") else f"{place}/wav.scp"

    def tables(self) -> Iterator[pa.Table]:
        """Yield the utterances in the order of their file; see `Source`."""
        carried = {
            column: dict(_pairs(f"{self.folder}/{name}"))
            for name, column in COLUMNS.items()
            if filesystems.exists(f"{self.folder}/{name}")
        }
        utterances = self._utterances()
        while page := list(itertools.islice(utterances, ROWS)):
            rows = [
                clip_row(self.folder, place, name, start, length, None)
                for name, place, start, length in page
            ]
            columns = {
                column: pa.array([values.get(one[0]) for one in page], pa.string())
                for column, values in carried.items()
            }
            yield table_of(rows, pa.table(columns) if columns else None)

    def _utterances(self) -> Iterator[tuple[str, str, float | None, float | None]]:
        """Yield the name, the recording's place, and the start and length in seconds."""
        segments = f"{self.folder}/segments"
        if not filesystems.exists(segments):
            for name, place in _pairs(self.scp):
                yield name, place, None, None
            return
        recordings = dict(_pairs(self.scp))
        for name, rest in _pairs(segments):
            try:
                recording, start, end = rest.split()[:3]
                yield name, recordings[recording], float(start), float(end) - float(start)
            except (ValueError, KeyError) as error:
                raise SourceError(
                    f"{segments}: {name}: expected a recording of {self.scp}, a start and an end "
                    f"in seconds, not {rest!r}"
                ) from error


def _pairs(place: str) -> Iterator[tuple[str, str]]:
    try:
        with (
            filesystems.open_file(place) as file,
            io.TextIOWrapper(file, encoding="utf-8") as lines,
        ):
            for line in lines:
                name, _, value = line.strip().partition(" ")
                if name:
                    yield name, value.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{place} cannot be read: {error}") from error
