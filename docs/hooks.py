"""What the site adds to the pages in docs/: pages that lie elsewhere in the repository.

Links between files of the repository are written as they work in a checkout. Here they are
turned to where those files are in the site; a file that is no page is copied below ``files/``,
and a link to a folder, of which the site has no page, becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "examples/finetune_dialect/README.md": "examples/finetune_dialect.md",
    "examples/javascript/README.md": "examples/javascript.md",
    "examples/onnx/README.md": "examples/onnx.md",
    "examples/orpheus/README.md": "examples/orpheus.md",
    "examples/tokenize_dataset/README.md": "examples/tokenize_dataset.md",
    "snac_core/starter/README.md": "starter.md",
}
"""Where in the site each page is that lies outside of docs/."""

LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)#\s:]+)(?P<anchor>#[^)]*)?\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the files that lie outside of docs/."""
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    for page in files.documentation_pages():
        source = _source(page.src_uri)
        for match in LINK.finditer(CODE.sub("", (ROOT / source).read_text("utf-8"))):
            target = _resolved(source, match["target"])
            uri = _uri(target)
            if (ROOT / target).is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository to where they are in the site."""
    here = page.file.src_uri
    source = _source(here)

    def turned(match: re.Match[str]) -> str:
        target = _resolved(source, match["target"])
        if (ROOT / target).is_dir():
            return match["text"].strip("[]")
        link = posixpath.relpath(_uri(target), posixpath.dirname(here) or ".")
        return f"{match['text']}({link}{match['anchor'] or ''})"

    def turned_outside_code(text: str) -> str:
        return LINK.sub(turned, text)

    parts, end = [], 0
    for code in CODE.finditer(markdown):
        parts += [turned_outside_code(markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, turned_outside_code(markdown[end:])])


def _source(uri: str) -> str:
    """Return where in the repository a page of the site lies."""
    return next((source for source, page in PAGES.items() if page == uri), f"docs/{uri}")


def _uri(source: str) -> str:
    """Return where in the site a file of the repository is."""
    if source in PAGES:
        return PAGES[source]
    return source.removeprefix("docs/") if source.startswith("docs/") else f"files/{source}"


def _resolved(source: str, target: str) -> str:
    """Return what a link in ``source`` means, from the top of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
