"""Bodies that are cheap to send and dear to read: counted, and refused in words."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import json_body
from service.api.content_negotiation import MAX_RANGES, negotiate
from service.errors import MalformedBodyError, NotAcceptableError
from service.limits.body import MAX_FIELDS
from snac_core.errors import CodesError

JSON = "application/json"


def posted(running: Any, body: bytes, media: str = JSON, path: str = "/v1/decode") -> Any:
    return running.http.post(path, content=body, headers={"Content-Type": media})


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


long_lists = st.integers(150, 300).flatmap(
    lambda count: st.lists(st.integers(-(2**63), 2**63 - 1), min_size=count, max_size=count)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('[]{}",\\ab\u00e9') | long_lists,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(values, st.sampled_from([None, 1]))
def test_a_body_is_what_a_json_parser_makes_of_it(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert plain(json_body.parse(text.encode(), 64)) == value


@pytest.mark.parametrize("end", [",", ",,1", ", -", ",01", ",1-1", " 1", ",1]"])
def test_a_long_list_is_checked_to_its_end(end: str) -> None:
    text = "[" + ",".join(["7"] * 1000) + end + "]"
    with pytest.raises(MalformedBodyError):
        json_body.parse(text.encode(), 16)


def test_pieces_of_a_long_list_are_one_list() -> None:
    numbers = list(range(300_000))
    for separator in (",", " , ", ",\n\t"):
        text = "[" + separator.join(map(str, numbers)) + "]"
        assert plain(json_body.parse(text.encode(), 16)) == numbers


def test_a_number_beyond_64_bits_is_named() -> None:
    text = "[" + ",".join(["7"] * 1000) + f",{10**30}]"
    with pytest.raises(CodesError, match=r"code 10000000000000000000\.\.\. is too large"):
        json_body.parse(text.encode(), 16)


def test_a_million_unknown_fields_are_not_looked_at(running: Any) -> None:
    many = ",".join(f'"{index}":0' for index in range(200_000))
    answer = posted(running, f'{{"codes":0,{many}}}'.encode())
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:snac:problem:malformed-body")
    few = ",".join(f'"{index}":0' for index in range(MAX_FIELDS + 1))
    answer = posted(running, f'{{"codes":0,{few}}}'.encode())
    assert answer.json()["detail"] == f"an object has 66 fields; at most {MAX_FIELDS} may be"
    nested = posted(running, f'{{"codes":0,"model":{{{few}}}}}'.encode())
    assert nested.status_code == 400
    packed = posted(running, msgpack.packb({str(i): 0 for i in range(999)}), "application/msgpack")
    assert packed.json()["detail"] == f"an object has 999 fields; at most {MAX_FIELDS} may be"


def test_a_few_unknown_fields_are_named(running: Any) -> None:
    answer = posted(running, b'{"codes":[[1],[1,2],[1,2,3,4]],"sead":1,"x":2}')
    assert (answer.status_code, answer.json()["detail"]) == (422, "unknown fields: sead, x")


def test_brackets_in_strings_neither_hide_depth_nor_make_it(running: Any) -> None:
    hidden = b'{"x":"' + b"]" * 9000 + b'","codes":' + b"[" * 5000 + b"]" * 5000 + b"}"
    answer = posted(running, hidden)
    assert (answer.status_code, "nested too deeply" in answer.json()["detail"]) == (400, True)
    name = b'{"codes":[[1],[1,2],[1,2,3,4]],"token_space":"' + b"[" * 40 + b'"}'
    assert posted(running, name).status_code == 409
    quotes = b'{"codes":"' + 400_000 * b'\\"'
    assert posted(running, quotes).status_code == 400


def test_codes_in_lists_of_every_form_give_the_same_audio(running: Any) -> None:
    levels = [[5] * 400, [6] * 800, [7] * 1600]
    packed = {"codes": [np.array(level, "<u2").tobytes() for level in levels]}
    bodies = [
        (json.dumps({"codes": levels}).encode(), JSON),
        (json.dumps({"codes": levels}, indent=2).encode(), JSON),
        (msgpack.packb({"codes": levels}), "application/msgpack"),
        (msgpack.packb(packed), "application/msgpack"),
    ]
    first, *others = [posted(running, body, media) for body, media in bodies]
    assert first.status_code == 200
    assert all(other.content == first.content for other in others)


@pytest.mark.parametrize("charset", ["punycode", "undefined", "utf-16", "idna"])
def test_only_utf_8_is_a_charset(running: Any, charset: str) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nx-' + 9000 * b"a"
    media = f"multipart/form-data; boundary=b; charset={charset}"
    answer = posted(running, part + b"\r\n--b--\r\n", media, "/v1/encode")
    assert answer.status_code == 415


def test_a_field_that_is_no_file_is_small(running: Any) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="layout"\r\n\r\n' + 20_000 * b"a"
    answer = posted(
        running, part + b"\r\n--b--\r\n", "multipart/form-data; boundary=b", "/v1/encode"
    )
    assert (answer.status_code, "maximum size" in answer.json()["detail"]) == (400, True)


def test_an_accept_header_of_commas_is_not_weighed() -> None:
    with pytest.raises(NotAcceptableError):
        negotiate("," * 60_000, ("a/b",))
    many = ",".join(f"x/{index}" for index in range(100 * MAX_RANGES))
    assert negotiate(f"a/b,{many}", ("c/d", "a/b")) == "a/b"


def test_an_npz_of_half_a_million_members_is_refused_by_its_end(running: Any) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(500):
            archive.writestr(f"{index}.npy", b"")
    answer = posted(running, file.getvalue(), "application/x-npz")
    assert answer.status_code == 422
    assert "for more members than codes have" in answer.json()["detail"]
