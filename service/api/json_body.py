"""JSON bodies whose long lists of whole numbers become arrays, a piece at a time.

A parser of all of a body at once keeps every other thread from running, the event loop's too, and
makes an object of each number. So lists are cut out of the text first: what is left is small.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import MalformedBodyError
from service.limits.body import check_fields, check_nesting
from snac_core.errors import CodesError

MAX_OTHER_BYTES = 2**20
"""What a body may have beside long lists of whole numbers: names, short lists, white space."""

LONG_BYTES = 512
"""Lists of whole numbers from here on are cut out."""

_PIECE_BYTES = 2**16
_NUMBERS = b"0123456789-, \t\r\n"
_PLACE = "\0list"

Array = npt.NDArray[np.int64]


def parse(data: bytes, max_depth: int) -> object:
    """Return the value of JSON text; lists of many whole numbers in it are arrays of int64.

    Raises
    ------
    MalformedBodyError
        If it is not JSON, is nested deeper than ``max_depth``, has an object with more than
        `MAX_FIELDS` fields, or more than `MAX_OTHER_BYTES` beside long lists of whole numbers.
    CodesError
        For a number that 64 bits do not hold.
    """
    arrays: list[Array] = []
    rest = b"".join(_cut(data, arrays))
    check_nesting(rest, max_depth)

    def fields(pairs: list[tuple[str, Any]]) -> object:
        if len(pairs) == 1 and pairs[0][0] == _PLACE:
            place = pairs[0][1]
            if not isinstance(place, int) or not 0 <= place < len(arrays):
                raise MalformedBodyError(f"an object has a field {_PLACE!r}")
            return arrays[place]
        return check_fields(pairs)

    try:
        value: object = json.loads(rest, object_pairs_hook=fields)
    except (ValueError, RecursionError) as error:
        raise MalformedBodyError(f"the body is not JSON: {error}") from None
    return value


def to_array(values: list[int]) -> Array:
    """Return whole numbers as an array, made in pieces; OverflowError if 64 bits hold one not."""
    starts = range(0, len(values), _PIECE_BYTES)
    return np.concatenate([np.array(values[at : at + _PIECE_BYTES], np.int64) for at in starts])


def _cut(data: bytes, arrays: list[Array]) -> Iterator[bytes]:
    """Yield the text with a mark in place of each long list; the lists go to ``arrays``."""
    left, done = MAX_OTHER_BYTES, 0
    opened = data.find(b"[")
    while opened >= 0:
        closed = data.find(b"]", opened)
        if closed < 0:
            break
        # The innermost of several that open before one closes: lists of numbers hold no lists.
        opened = data.rfind(b"[", opened, closed)
        if closed - opened > LONG_BYTES:
            numbers = data[opened + 1 : closed]
            if not numbers.translate(None, _NUMBERS):
                left -= opened - done
                _check_left(left)
                yield data[done:opened] + b'{"\\u0000list":%d}' % len(arrays)
                arrays.append(_numbers(numbers))
                done = closed + 1
        opened = data.find(b"[", closed)
    _check_left(left - (len(data) - done))
    yield data[done:]


def _check_left(left: int) -> None:
    if left < 0:
        raise MalformedBodyError(
            f"the JSON has more than {MAX_OTHER_BYTES} bytes beside lists of whole numbers"
        )


def _numbers(text: bytes) -> Array:
    """Return the numbers of a list, parsed in pieces that end at a comma."""
    parts, start = [], 0
    while start <= len(text):
        end = text.find(b",", start + _PIECE_BYTES)
        end = len(text) if end < 0 else end
        try:
            part = json.loads(b"[%b]" % text[start:end])
            if not part:
                raise ValueError("a comma with no number after it")
            parts.append(np.array(part, np.int64))
        except OverflowError:
            large = next(value for value in part if not -(2**63) <= value < 2**63)
            shown = re.sub(r"(?<=.{20}).+", "...", str(large))
            raise CodesError(f"code {shown} is too large") from None
        except ValueError as error:
            raise MalformedBodyError(f"a list in the JSON is malformed: {error}") from None
        start = end + 1
    return np.concatenate(parts)
