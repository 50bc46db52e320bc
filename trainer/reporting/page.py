"""Self-contained HTML pages: no network, no scripts, light and dark themes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from snac_core import audio
from snac_core.types import Samples
from snac_core.utils import atomic_files

TEMPLATES = Path(__file__).parent / "templates"
ABSENT = "–"


def write(path: Path, template: str, **values: Any) -> Path:
    """Fill in the template called ``template`` and write it to ``path``, which is returned.

    Values are escaped unless the template says otherwise; one that it lacks is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "percent": percent,
        "count": count,
        "sound": sound,
    }
    page = environment.get_template(template).render(**values)
    atomic_files.make_folder(path.parent)
    atomic_files.replace(path, page.encode())
    return path


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with ``digits`` behind the point, or a dash for None."""
    return ABSENT if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float | None, digits: int = 2) -> str:
    """Return a number with its sign."""
    return ABSENT if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent."""
    return ABSENT if value is None else f"{number(100 * value, digits)} %"


def count(value: int, noun: str = "") -> str:
    """Return a whole number with thin spaces between thousands, and how many of what it is."""
    digits = f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{digits} {noun}{'' if value == 1 else 's'}" if noun else digits


def sound(data: bytes) -> str:
    """Return a FLAC file's bytes as a data: URI."""
    return f"data:audio/flac;base64,{base64.b64encode(data).decode()}"


def flac(samples: Samples, sample_rate: int) -> bytes:
    """Return samples, [T], as a FLAC file, which every browser plays."""
    return audio.encode_bytes(samples, sample_rate, "flac")
