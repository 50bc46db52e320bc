"""Which kind of source an input is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import orjson
import pyarrow as pa

from bulk import filesystems
from bulk.errors import SourceError
from bulk.filesystems import File
from bulk.sources.clips import Source
from bulk.sources.datasets import AUDIO_COLUMN, ColumnsSource, has_recordings, hub_files
from bulk.sources.folder import FolderSource
from bulk.sources.kaldi import KaldiSource
from bulk.sources.lhotse import LhotseSource
from bulk.sources.manifest import ManifestSource
from bulk.sources.webdataset import WebDatasetSource

HUB = "hub:"
MANIFESTS = (".csv", ".tsv", ".jsonl", ".json")


@dataclasses.dataclass(frozen=True)
class Options:
    """How an input is to be taken.

    Parameters
    ----------
    kind
        A key of `KINDS`, or ``auto``.
    audio_column, id_column
        Of manifests and datasets; None looks for the usual ones.
    split
        Of a dataset of the Hugging Face Hub.
    """

    kind: str = "auto"
    audio_column: str | None = None
    id_column: str | None = None
    split: str = "train"


def find_source(place: str, options: Options) -> Source:
    """Return the source that an input is.

    Parameters
    ----------
    place
        A folder, a file, a pattern of files, or ``hub:owner/name``.

    Raises
    ------
    SourceError
        When there is no such place.
    """
    if place.startswith(HUB):
        files = hub_files(place.removeprefix(HUB), options.split)
        root = filesystems.parent(files[0].place) if files else ""
        return ColumnsSource(root, files, options.audio_column, options.id_column)
    place = filesystems.absolute(place)
    kind = _kind(place, options) if options.kind == "auto" else options.kind
    return KINDS[kind](place, options)


def _columns(suffixes: tuple[str, ...]) -> Callable[[str, Options], Source]:
    def source(place: str, options: Options) -> Source:
        root, files = _files(place, suffixes)
        return ColumnsSource(root, files, options.audio_column, options.id_column)

    return source


def _tar(place: str, options: Options) -> Source:
    return WebDatasetSource(*_files(place, (".tar",)))


KINDS: dict[str, Callable[[str, Options], Source]] = {
    "folder": lambda place, options: FolderSource(place),
    "manifest": lambda place, options: ManifestSource(
        place, options.audio_column, options.id_column
    ),
    "nemo": lambda place, options: ManifestSource(
        place, options.audio_column or "audio_filepath", options.id_column
    ),
    "lhotse": lambda place, options: LhotseSource(place),
    "kaldi": lambda place, options: KaldiSource(place),
    "parquet": _columns((".parquet",)),
    "arrow": _columns((".arrow",)),
    "webdataset": _tar,
}
"""How each kind of source is made."""


def _kind(place: str, options: Options) -> str:
    if filesystems.is_pattern(place):
        first = filesystems.expand(place)[0].place
        return _kind_of_file(first, options)
    if filesystems.is_folder(place):
        return _kind_of_folder(place, options)
    if not filesystems.exists(place):
        raise SourceError(
            f"{place} is not there; a folder, a manifest, a dataset's files, a pattern of them, or "
            f"{HUB}owner/name is expected"
        )
    return _kind_of_file(place, options)


def _kind_of_folder(place: str, options: Options) -> str:
    if filesystems.exists(f"{place}/wav.scp"):
        return "kaldi"
    # Only the beginning is looked at: a folder may hold millions of files.
    for number, file in enumerate(filesystems.files_under(place)):
        kind = _kind_of_file(file.place, options, "")
        if kind in ("parquet", "arrow", "webdataset"):
            return kind
        if number == 1000:
            break
    return "folder"


def _kind_of_file(place: str, options: Options, otherwise: str = "folder") -> str:
    if place.endswith(".tar"):
        return "webdataset"
    if place.endswith(".arrow"):
        return "arrow"
    if place.endswith(".scp"):
        return "kaldi"
    if place.endswith(".parquet"):
        held = has_recordings(place, options.audio_column or AUDIO_COLUMN)
        return "parquet" if held else "manifest"
    if place.removesuffix(".gz").endswith(MANIFESTS):
        return "lhotse" if _is_cuts(place) else "manifest"
    return otherwise


def _is_cuts(place: str) -> bool:
    if not place.removesuffix(".gz").endswith((".jsonl", ".json")):
        return False
    with filesystems.open_text(place) as file:
        line = file.readline()
    try:
        first = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(first, dict) and {"recording", "start", "duration"} <= first.keys()


def _files(place: str, suffixes: tuple[str, ...]) -> tuple[str, Sequence[File]]:
    """Return the folder that ids are relative to, and the files that a place names."""
    if filesystems.is_pattern(place):
        files: Sequence[File] = filesystems.expand(place)
        fixed = place[: min(place.index(char) for char in "*?[{" if char in place)]
        return fixed.rpartition("/")[0], files
    folder = filesystems.is_folder(place)
    files = [one for one in filesystems.files_under(place) if one.place.endswith(suffixes)]
    if not files:
        raise SourceError(f"no {' or '.join(suffixes)} files under {place}")
    return place if folder else filesystems.parent(place), files


class Several:
    """Sources one after the other; ids must differ among them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def tables(self) -> Iterator[pa.Table]:
        """Yield the clips of each source in turn."""
        for source in self.sources:
            yield from source.tables()
