"""A folder of recordings, or a pattern that names some."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator

import pyarrow as pa

from bulk import filesystems
from bulk.errors import SourceError
from bulk.filesystems import File
from bulk.sources.clips import ROWS, table_of
from snac_core.audio import AUDIO_SUFFIXES


class FolderSource:
    """Every recording under a folder; its id is its path relative to the folder.

    Parameters
    ----------
    place
        A folder, one recording, or a pattern. Ids of a pattern are relative to the folder
        before its first wildcard.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    def tables(self) -> Iterator[pa.Table]:
        """Yield the recordings, sorted by name; see `Source`."""
        root, files = self._files()
        found = (file for file in files if is_audio(file.place))
        empty = True
        while page := list(itertools.islice(found, ROWS)):
            empty = False
            names = [file.place.removeprefix(root) for file in page]
            yield table_of(
                [
                    {
                        "id": name,
                        "path": name,
                        "place": file.place,
                        "size": file.size,
                        "version": file.version,
                    }
                    for name, file in zip(names, page, strict=True)
                ]
            )
        if empty:
            raise SourceError(
                f"no recordings under {self.place}; looked for {', '.join(sorted(AUDIO_SUFFIXES))}"
            )

    def _files(self) -> tuple[str, Iterator[File]]:
        if filesystems.is_pattern(self.place):
            fixed = self.place[: min(self.place.index(c) for c in "*?[{" if c in self.place)]
            return fixed.rpartition("/")[0] + "/", iter(filesystems.expand(self.place))
        if filesystems.is_folder(self.place):
            return self.place.rstrip("/") + "/", filesystems.files_under(self.place)
        return filesystems.parent(self.place) + "/", filesystems.files_under(self.place)


def is_audio(name: str) -> bool:
    """Return whether a file's name ends as those of recordings do."""
    return posixpath.splitext(name)[1].lower() in AUDIO_SUFFIXES
