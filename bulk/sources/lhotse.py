"""Cuts of Lhotse, as its ``cuts.jsonl`` and ``cuts.jsonl.gz`` hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from bulk import filesystems
from bulk.errors import SourceError
from bulk.sources.clips import table_of
from bulk.sources.manifest import clip_row, json_pages, json_table

SUPERVISION = ("text", "speaker", "language", "gender")


class LhotseSource:
    """One clip for each cut of one recording (``MonoCut``, or a ``MultiCut`` of one channel).

    Carried are the cut's own fields, and ``text``, ``speaker``, ``language`` and ``gender`` of its
    supervisions: texts are joined by a space, of the others the first is taken.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    def tables(self) -> Iterator[pa.Table]:
        """Yield the cuts in the manifest's order; see `Source`."""
        folder = filesystems.parent(self.place)
        for first, cuts in json_pages(self.place):
            where = f"{self.place}, line {first}"
            rows = [self._row(folder, cut) for cut in cuts]
            yield table_of(rows, json_table([_carried(cut) for cut in cuts], where))

    def _row(self, folder: str, cut: Mapping[str, Any]) -> dict[str, Any]:
        name = cut.get("id")
        try:
            recording = cut["recording"]
            (source,) = recording["sources"]
            kind, place = source["type"], source["source"]
            start, duration = float(cut["start"]), float(cut["duration"])
            channel = cut.get("channel", 0)
            (channel,) = channel if isinstance(channel, list) else [channel]
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(
                f"{self.place}: cut {name!r} is no cut of one recording in one file ({error!r})"
            ) from error
        if kind not in ("file", "url"):
            raise SourceError(f"{self.place}: cut {name!r}: a source of type {kind!r} is not read")
        whole = start == 0 and abs(duration - recording.get("duration", -1)) < 1e-6
        channels = len(source.get("channels", [0]))
        return clip_row(
            folder,
            place,
            name,
            None if whole else start,
            None if whole else duration,
            int(channel) if channels > 1 else None,
        )


def _carried(cut: Mapping[str, Any]) -> dict[str, Any]:
    known = {"id", "recording", "supervisions", "type", "features"}
    fields = {name: value for name, value in cut.items() if name not in known}
    fields |= {"recording_id": cut["recording"].get("id")}
    spoken = cut.get("supervisions") or []
    for name in SUPERVISION:
        values = [str(one[name]) for one in spoken if one.get(name) is not None]
        fields[name] = None if not values else " ".join(values) if name == "text" else values[0]
    return fields
