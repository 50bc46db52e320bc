"""Parsing decode requests: codes in JSON, npz or msgpack, and their options."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import msgpack
import numpy as np
from pydantic import ValidationError

from service.api import json_body
from service.api.content_negotiation import JSON, MSGPACK, NPZ
from service.api.json_body import to_array
from service.api.schemas import DecodeOptions
from service.api.uploads import UNNAMED
from service.errors import InvalidRequestError, MalformedBodyError, UnsupportedMediaError
from service.limits.body import MAX_LISTS, check_fields, check_names
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.errors import AudioTooLongError, CodesError, TokenSpaceError
from snac_core.inference.jobs import DecodeJob
from snac_core.layouts import find_layout, from_layout

Fields = dict[str, Any]

LONG_LIST = 64
MAX_LIST_NUMBERS = 2**21
"""Numbers in one list of msgpack: seven hours of the codes of one model, parsed in one go."""


def parse_fields(data: bytes, media: str, config: SnacConfig, max_depth: int) -> Fields:
    """Return the fields of a decode body of media type ``media``.

    Values are not validated, except for an npz file, which must fit ``config``. The format of
    bytes without a type is detected by their first bytes. JSON may be nested ``max_depth`` deep.

    Raises
    ------
    MalformedBodyError
        If the body does not match its type, or is not one object.
    UnsupportedMediaError
        For any other type.
    """
    if media in UNNAMED:
        media = _guess(data)
    if media == NPZ:
        return _codes_fields(Codes.from_npz(data, config))
    if media == JSON:
        fields = json_body.parse(data, max_depth)
    elif media == MSGPACK:
        fields = _parse_msgpack(data)
    else:
        raise UnsupportedMediaError(f"send codes as {JSON}, {NPZ} or {MSGPACK}, not {media!r:.100}")
    if not isinstance(fields, dict):
        raise MalformedBodyError(f"the body must be one object, not a {type(fields).__name__}")
    return fields


def plan_decode(codec: Codec, fields: Fields, max_seconds: float) -> DecodeJob:
    """Validate the fields of a decode request as `read_codes` does, and plan its job."""
    codes, options = read_codes(codec, fields, max_seconds)
    return codec.decode_job(codes, options.noise, options.seed)


def read_codes(codec: Codec, fields: Fields, max_seconds: float) -> tuple[Codes, DecodeOptions]:
    """Validate the fields of a decode request against ``codec``.

    Raises
    ------
    InvalidRequestError
        For a field that is unknown, missing or of the wrong type.
    TokenSpaceError
        If the request names another token space than that of ``codec``.
    CodesError
        For codes that are invalid for ``codec``.
    AudioTooLongError
        If they hold more than ``max_seconds`` of audio.
    """
    check_names(fields, (*DecodeOptions.model_fields, "codes"))
    if "codes" not in fields:
        raise InvalidRequestError("codes: the field is required")
    try:
        options = DecodeOptions.model_validate(
            {name: value for name, value in fields.items() if name != "codes"}
        )
    except ValidationError as error:
        raise InvalidRequestError.from_validation(error) from None
    for theirs in (options.token_space, options.model and options.model.token_space):
        if theirs is not None and theirs != codec.token_space:
            raise TokenSpaceError(
                f"the codes are of token space {theirs!r}; {codec.token_space!r} is being served"
            )
    config = codec.config
    one_list = find_layout(options.layout).name in ("flat", "orpheus", "orpheus-text")
    tokens = _unpacked(_without_batch(fields["codes"], one_list=one_list))
    levels = from_layout(
        tokens,
        options.layout,
        config=config,
        base=options.base,
        incomplete=options.incomplete,
    )
    values = {
        "codes": levels,
        "num_samples": options.num_samples,
        "sample_rate": options.sample_rate,
    }
    codes = Codes.from_dict(values, config)
    held = codes.frames(config) * config.frame_samples / config.sampling_rate
    if held > max_seconds + config.pad_multiple / config.sampling_rate:
        raise AudioTooLongError(f"the codes hold {held:.1f} s of audio, of at most {max_seconds:g}")
    return codes, options


def _guess(data: bytes) -> str:
    if data.startswith(b"PK"):
        return NPZ
    return JSON if data.lstrip()[:1] in (b"{", b"[", b"") else MSGPACK


def _codes_fields(codes: Codes) -> Fields:
    return {
        "codes": codes.levels,
        "num_samples": codes.num_samples,
        "sample_rate": codes.sample_rate,
    }


def _parse_msgpack(data: bytes) -> object:
    lists = itertools.count(1)

    def counted(value: list[Any]) -> object:
        # An empty list takes one byte in msgpack and a hundred in memory.
        if next(lists) > MAX_LISTS:
            raise MalformedBodyError(f"the msgpack has more than {MAX_LISTS} lists and objects")
        # Whole numbers in an array take a quarter of what they take one by one.
        if len(value) > LONG_LIST and set(map(type, value)) == {int}:
            with contextlib.suppress(OverflowError):  # said where codes are checked
                return to_array(value)
        return value

    def refused(code: int, data: bytes) -> object:
        raise MalformedBodyError(f"the msgpack has an extension, of type {code}")

    try:
        parsed: object = msgpack.unpackb(
            data,
            list_hook=counted,
            object_pairs_hook=check_fields,
            ext_hook=refused,
            max_array_len=MAX_LIST_NUMBERS,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise MalformedBodyError(f"the body is not msgpack: {reason}") from None
    return parsed


def _without_batch(codes: object, *, one_list: bool) -> object:
    """Return codes without a batch dimension of size one, which ``tensor.tolist()`` leaves.

    Parameters
    ----------
    codes
        ``[[...]]`` for a layout that is one list; for layouts of several, ``[[[...], ...]]`` or
        the ``[[[...]], ...]`` that a list of tensors [1, T] gives. Anything else stays.
    one_list
        Whether the layout is one list of tokens.
    """
    if not isinstance(codes, list) or not all(isinstance(row, list) for row in codes):
        return codes
    if one_list or (len(codes) == 1 and _all_lists(codes[0])):
        return codes[0] if len(codes) == 1 else codes
    if codes and all(len(row) == 1 and _all_lists(row) for row in codes):
        return [row[0] for row in codes]
    return codes


def _all_lists(values: list[object]) -> bool:
    return bool(values) and all(isinstance(value, list) for value in values)


def _unpacked(codes: object) -> object:
    """Return codes with msgpack's raw levels (little-endian uint16) as arrays.

    Raises
    ------
    CodesError
        If the bytes are no uint16, or look like wider numbers: then every second value is 0.
    """
    if not isinstance(codes, list):
        return codes
    for level, row in enumerate(codes):
        if isinstance(row, bytes) and len(row) % 2:
            raise CodesError(f"level {level}: {len(row)} bytes are not whole uint16 codes")
    levels = [np.frombuffer(row, "<u2") if isinstance(row, bytes) else row for row in codes]
    raw = [level for level in levels if isinstance(level, np.ndarray)]
    if any(level.any() for level in raw) and all(
        len(level) % 2 == 0 and not level[1::2].any() for level in raw
    ):
        raise CodesError(
            "every second uint16 of the raw levels is 0, as in int32 or int64 arrays: send "
            "little-endian uint16, or lists"
        )
    return levels
