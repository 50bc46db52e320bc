"""Codes as they leave in a stream: whole coarse frames into tokens of any layout."""

from __future__ import annotations

from typing import Any

from snac_core.config import SnacConfig
from snac_core.layouts import mini_omni
from snac_core.layouts.clips import find_layout, to_layout
from snac_core.types import Levels


class TokenWriter:
    """Writes one stream of codes in a layout; the parts of a lane, joined, are the clip's.

    Raises
    ------
    LayoutError
        As `token_reader` does.
    """

    def __init__(self, layout: str, config: SnacConfig, base: int | None = None) -> None:
        self.layout = find_layout(layout)
        self.base = self.layout.default_base if base is None else base
        self.frames_written = 0
        self._config, self._base = config, base
        self._offsets = self.layout.offsets(config, base).tolist()

    def write(self, levels: Levels) -> list[Any]:
        """Return whole coarse frames as tokens: one list, or one per lane."""
        self.frames_written += len(levels[0]) // self._config.codes_per_frame[0]
        return to_layout(levels, self.layout.name, config=self._config, base=self._base)

    def finish(self) -> list[Any]:
        """Return the tokens that follow the last frame; empty for most layouts."""
        return []


class _MiniOmniWriter(TokenWriter):
    """Rows of equal length, each of which has held back what is ahead of the first."""

    def __init__(self, layout: str, config: SnacConfig, base: int | None) -> None:
        super().__init__(layout, config, base)
        self._rows = [
            [offset + mini_omni.PAD] * (row + 1) for row, offset in enumerate(self._offsets)
        ]

    def write(self, levels: Levels) -> list[Any]:
        self.frames_written += len(levels[0]) // self._config.codes_per_frame[0]
        flat = to_layout(levels, "flat", config=self._config)
        count = len(self._rows)
        for index, (row, offset) in enumerate(zip(self._rows, self._offsets, strict=True)):
            row += [offset + code for code in flat[index::count]]
        return self._steps()

    def finish(self) -> list[Any]:
        if not self.frames_written:
            return []
        for index, (row, offset) in enumerate(zip(self._rows, self._offsets, strict=True)):
            row += [offset + mini_omni.EOA]
            row += [offset + mini_omni.PAD] * (len(self._rows) - 1 - index)
        return self._steps()

    def _steps(self) -> list[list[int]]:
        steps = min(map(len, self._rows))
        out = [row[:steps] for row in self._rows]
        self._rows = [row[steps:] for row in self._rows]
        return out


def token_writer(layout: str, config: SnacConfig, base: int | None = None) -> TokenWriter:
    """Return a writer of ``layout``; raises as `TokenWriter` does."""
    mini_omni = find_layout(layout).name == "mini-omni"
    return (_MiniOmniWriter if mini_omni else TokenWriter)(layout, config, base)
