"""Files of codes: npz, JSON and msgpack, in any layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack

from snac_core.cli.files import STANDARD, content
from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.errors import CodesError, LayoutError, TokenSpaceError
from snac_core.layouts import find_layout, from_layout

WRITERS: Mapping[str, Callable[[Codes], bytes]] = {
    "npz": Codes.to_npz,
    "json": lambda codes: codes.to_json().encode(),
    "msgpack": Codes.to_msgpack,
}
"""What writes each format."""

SUFFIXES = tuple(f".{name}" for name in WRITERS)


def read(
    path: Path,
    config: SnacConfig,
    token_space: str,
    layout: str | None = None,
    base: int | None = None,
) -> Codes:
    """Read the codes in a file, or from standard input.

    A file without a layout of its own is of ``layout``, or hierarchical. JSON and msgpack are
    what ``snac-codec encode`` and the service write, or no more than the tokens.

    Raises
    ------
    CodesError
        For what is no file of codes of this model, or a layout other than the file names.
    TokenSpaceError
        For codes that name another token space.
    """
    data = content(path)
    kind = path.suffix.lower().lstrip(".") if path != STANDARD else _sniffed(data)
    if kind not in WRITERS:
        raise CodesError(f"not a codes file: its name must end in {', '.join(SUFFIXES)}")
    if kind == "npz":
        if layout is not None and find_layout(layout).name != "hierarchical":
            raise LayoutError(f"npz holds the layout hierarchical, not {layout}")
        return Codes.from_npz(data, config)
    parsed = _parsed(data, kind)
    values = parsed if isinstance(parsed, Mapping) else {"codes": parsed}
    named = values.get("layout")
    if named is not None and not isinstance(named, str):
        raise LayoutError(f"the file's layout must be a name, not {named!r:.40}")
    if named and layout and find_layout(named) is not find_layout(layout):
        raise LayoutError(f"the file says layout {named}, and --layout says {layout}")
    found = find_layout(named or layout or "hierarchical")
    _check_token_space(values, token_space)
    if found.name == "hierarchical" and kind == "msgpack" and values is parsed:
        # Its levels may be raw numbers.
        return Codes.from_msgpack(data, config)
    if base is None and found.default_base is not None:
        base = values.get("base")
    if "codes" in values:
        levels = from_layout(values["codes"], found.name, config=config, base=base)
        values = {**values, "codes": levels}
    return Codes.from_dict(values, config)


def _sniffed(data: bytes) -> str:
    """Return the format that data without a name are in."""
    if data[:4] == b"PK\x03\x04":
        return "npz"
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    return "json" if start in (b"{", b"[", b"") else "msgpack"


def _parsed(data: bytes, kind: str) -> Any:
    try:
        return json.loads(data) if kind == "json" else msgpack.unpackb(data)
    except RecursionError:
        raise CodesError("not codes in JSON: too deeply nested") from None
    except (ValueError, msgpack.UnpackException) as error:
        name = "JSON" if kind == "json" else "msgpack"
        raise CodesError(f"not {name}: {str(error) or type(error).__name__}") from None


def _check_token_space(values: Mapping[str, Any], token_space: str) -> None:
    model = values.get("model")
    named = model.get("token_space") if isinstance(model, Mapping) else None
    if named not in (None, token_space):
        raise TokenSpaceError(
            f"the codes are of token space {named}, and the model is of {token_space}"
        )
