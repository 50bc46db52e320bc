"""Reading the HTML pages that the trainer writes, as a browser without a network would."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

VOID = frozenset({"meta", "link", "br", "hr", "img", "input", "source", "image", "use", "path"})
FETCHING = frozenset({"src", "href", "xlink:href", "srcset", "poster", "action", "data"})


class Page(HTMLParser):
    """What a page holds; elements must be closed in the order in which they were opened."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.html = "", path.read_text("utf-8")
        self.links: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(self.html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " "
        self.elements.append((tag, dict(attrs)))
        self.links += [value or "" for name, value in attrs if name in FETCHING]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data

    def check_self_contained(self) -> None:
        """Assert that nothing in the page makes a browser ask for anything else."""
        ids = {attributes.get("id") for _, attributes in self.elements}
        for link in self.links:
            assert link.startswith("data:") or link.removeprefix("#") in ids, link[:80]
        for target in re.findall(r"url\(([^)]*)\)", self.html):
            assert target.removeprefix("#") in ids, target
        assert "@import" not in self.html
        assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in self.elements}

    def data(self, kind: str) -> list[bytes]:
        """Return what the data: URIs of a media type hold, in order."""
        start = f"data:{kind};base64,"
        return [
            base64.b64decode(link.removeprefix(start))
            for link in self.links
            if link.startswith(start)
        ]

    @property
    def words(self) -> str:
        """The text, with single spaces."""
        return " ".join(self.text.split())
