from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_core.codes import Codes, check_levels
from snac_core.config import SNAC_24KHZ, SNAC_32KHZ, SnacConfig
from snac_core.errors import CodesError

FORMS = [
    (Codes.to_json, Codes.from_json),
    (Codes.to_npz, Codes.from_npz),
    (Codes.to_msgpack, Codes.from_msgpack),
    (Codes.to_dict, Codes.from_dict),
]

quick = settings(max_examples=40, deadline=None)


def make(frames: int = 3, config: SnacConfig = SNAC_24KHZ, seed: int = 0) -> Codes:
    random = np.random.default_rng(seed)
    levels = tuple(
        random.integers(0, config.codebook_size, frames * count, dtype=np.int32)
        for count in config.codes_per_frame
    )
    return Codes(levels, frames * config.frame_samples - 100, config.sampling_rate)


def lists(**changes: Any) -> dict[str, Any]:
    return {**make().to_dict(), **changes}


def with_code(level: int, index: int, value: object) -> dict[str, Any]:
    values = lists()
    values["codes"][level][index] = value
    return values


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", [SNAC_24KHZ, SNAC_32KHZ])
@quick
@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 5))
def test_every_form_gives_the_same_codes_back(
    form: Any, config: SnacConfig, seed: int, frames: int
) -> None:
    write, read = form
    codes = make(frames, config, seed)
    assert read(write(codes), config) == codes
    assert read(write(codes)) == codes


@pytest.mark.parametrize("form", FORMS)
def test_codes_too_large_for_uint16_survive(form: Any) -> None:
    write, read = form
    codes = Codes(([0, 70_000], [1, 2, 3, 2**31 - 1]), 10, 16000)  # type: ignore[arg-type]
    assert read(write(codes)) == codes


def test_equal_codes_give_equal_bytes() -> None:
    assert make().to_npz() == make().to_npz()


def test_npz_is_compact_and_numpy_reads_it() -> None:
    codes = make(100)
    with np.load(io.BytesIO(codes.to_npz()), allow_pickle=False) as members:
        assert members["level_2"].dtype == np.uint16
        assert np.array_equal(members["level_2"], codes.levels[2])
        assert (int(members["num_samples"]), int(members["sample_rate"])) == (204700, 24000)


def test_an_npz_written_by_numpy_is_read() -> None:
    codes, file = make(), io.BytesIO()
    levels = {f"level_{i}": level.astype(np.int64) for i, level in enumerate(codes.levels)}
    np.savez_compressed(file, num_samples=codes.num_samples, **levels)  # type: ignore[arg-type]
    assert Codes.from_npz(file.getvalue(), SNAC_24KHZ) == codes


def test_msgpack_holds_raw_bytes_and_lists_are_read_too() -> None:
    codes = make()
    raw = msgpack.unpackb(codes.to_msgpack())
    assert raw["codes"][1] == codes.levels[1].astype("<u2").tobytes()
    raw["codes"][1] = codes.levels[1].tolist()
    assert Codes.from_msgpack(msgpack.packb(raw), SNAC_24KHZ) == codes


def test_other_keys_are_ignored_and_missing_counts_mean_everything() -> None:
    levels = make().to_dict()["codes"]
    answer = {"layout": "hierarchical/1", "codes": levels, "duration": 1, "model": {}}
    for values in (answer, {**answer, "num_samples": None, "sample_rate": None}):
        codes = Codes.from_dict(values, SNAC_24KHZ)
        assert (codes.num_samples, codes.sample_rate) == (3 * 2048, 24000)


def test_without_a_model_both_counts_are_needed() -> None:
    with pytest.raises(CodesError, match="num_samples must be a whole number, not None"):
        Codes.from_dict({"codes": [[1]], "sample_rate": 24000})


def test_duration_frames_and_equality() -> None:
    codes = make()
    assert codes.duration == pytest.approx((3 * 2048 - 100) / 24000)
    assert codes.frames(SNAC_24KHZ) == 3
    assert codes != make(seed=1)
    assert codes != Codes(codes.levels, codes.num_samples - 1, codes.sample_rate)
    assert codes != "codes"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (with_code(1, 3, 4096), r"level 1, index 3: code 4096 is outside 0\.\.4095"),
        (with_code(0, 0, -1), r"level 0, index 0: code -1 is outside 0\.\.4095"),
        (with_code(2, 11, 2**40), r"level 2, index 11: code 1099511627776 is outside 0\.\.4095"),
        (with_code(2, 5, 10**400), r"level 2, index 5: a number of more than 30 digits"),
        (with_code(0, 1, 3.0), r"level 0, index 1: 3\.0 is not a whole number"),
        (with_code(0, 1, float("nan")), r"level 0, index 1: nan is not a whole number"),
        (with_code(0, 2, True), r"level 0, index 2: True is not a whole number"),
        (with_code(0, 2, None), r"level 0, index 2: None is not a whole number"),
        (with_code(0, 2, "7"), r"level 0, index 2: a str of length 1 is not a whole number"),
        (with_code(0, 2, [7]), r"level 0, index 2: a list of length 1 is not a whole number"),
        (lists(codes=[[], [], []]), "level 0 holds no codes"),
        (lists(codes=[[1], [1, 2]]), "2 levels of codes; this model has 3"),
        (lists(codes=[]), "0 levels of codes; this model has 3"),
        (lists(codes=5), "codes must be 3 lists, one per level, not 5"),
        (lists(codes=[5, 5, 5]), "level 0 must be a list of whole numbers, not 5"),
        (
            lists(codes=[[1], [1, 2], [1, 2, 3]]),
            r"level 2 holds 3 codes; 1 coarse frames need 4 .*1:2:4",
        ),
        (lists(num_samples=0), r"num_samples 0 is outside 1\.\."),
        (lists(num_samples=3 * 2048 + 1), r"num_samples 6145 is outside 1\.\.6144"),
        (lists(num_samples=1.5), "num_samples must be a whole number, not 1.5"),
        (lists(num_samples=True), "num_samples must be a whole number, not True"),
        (lists(num_samples=10**40), "num_samples a number of more than 30 digits is outside"),
        (lists(sample_rate=44100), "codes of 44100 Hz audio; this model is for 24000 Hz"),
        ({"num_samples": 5}, "the key 'codes' is missing"),
        ([1, 2], "expected a mapping with the key 'codes', not a list"),
    ],
)
def test_wrong_values_are_named(values: Any, message: str) -> None:
    with pytest.raises(CodesError, match=message):
        Codes.from_dict(values, SNAC_24KHZ)
    with pytest.raises(CodesError):
        Codes.from_json(json.dumps(values), SNAC_24KHZ)


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (np.array([1.0]), "level 0 must hold whole numbers, not float64"),
        (np.array([True]), "level 0 must hold whole numbers, not bool"),
        (np.array([[1]]), r"level 0 must be one-dimensional, not of shape \(1, 1\)"),
        (np.array([2**63], dtype=np.uint64), "level 0, index 0: 9223372036854775808 is too large"),
        (np.array([], dtype=np.int32), "level 0 holds no codes"),
        (np.array([5, 4096]), r"level 0, index 1: code 4096 is outside 0\.\.4095"),
    ],
)
def test_wrong_arrays_are_named(level: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(CodesError, match=message):
        check_levels([level, [1, 2], [1, 2, 3, 4]], SNAC_24KHZ)


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[" * 100_000, b"nonsense"])
@pytest.mark.parametrize("read", [Codes.from_json, Codes.from_msgpack, Codes.from_npz])
def test_what_is_not_codes_is_refused(data: bytes, read: Any) -> None:
    with pytest.raises(CodesError):
        read(data, SNAC_24KHZ)


@pytest.mark.parametrize("form", FORMS[:3])
@quick
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_files_are_read_or_refused(form: Any, place: float, byte: int, cut: bool) -> None:
    write, read = form
    data = write(make())
    damaged = bytearray(data.encode() if isinstance(data, str) else data)
    index = int(place * len(damaged))
    damaged[index] = byte
    try:
        codes = read(bytes(damaged[:index] if cut else damaged), SNAC_24KHZ)
    except CodesError:
        return
    codes.validate(SNAC_24KHZ)


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def test_zip_bombs_are_refused() -> None:
    bomb = zipped({"level_0.npy": bytes(80 * 2**20)})
    assert len(bomb) < 2**20
    with pytest.raises(CodesError, match="83886080 bytes once unpacked; at most 67108864"):
        Codes.from_npz(bomb)
    # The same with a directory that claims 100 bytes.
    small = bomb.replace((80 * 2**20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert small.count((100).to_bytes(4, "little")) >= 2
    tracemalloc.start()
    try:
        with pytest.raises(CodesError, match="not an npz file of codes"):
            Codes.from_npz(small)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_an_array_header_cannot_ask_for_memory() -> None:
    lying = npy(np.zeros(10, np.uint16)).replace(b"(10,), }        ", b"(99999999999,), }")
    with pytest.raises(CodesError, match=r"level_0 of the npz has .* bytes, which are not 999999"):
        Codes.from_npz(zipped({"level_0.npy": lying}))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../level_0.npy": b""}, "unexpected or repeated member"),
        ({f"level_{i}.npy": b"" for i in range(99)}, "unexpected or repeated member 'level_16'"),
        ({"level_1.npy": npy([1])}, "member level_0 of the npz is missing"),
        ({"level_0.npy": npy([1.5])}, "member level_0 of the npz must be whole numbers"),
        ({"level_0.npy": npy([[1]])}, "member level_0 of the npz must be whole numbers"),
        ({"level_0.npy": npy(5)}, "level 0 must be one-dimensional"),
        ({"level_0.npy": b""}, "member level_0 of the npz must be whole numbers"),
        (
            {"level_0.npy": npy(np.array([{}]), allow_pickle=True)},
            "member level_0 of the npz must be whole numbers",
        ),
        (
            {"level_0.npy": npy([1]), "num_samples.npy": npy([1, 2])},
            "num_samples must be one whole number, not 2",
        ),
    ],
)
def test_other_npz_members_are_refused(members: dict[str, bytes], message: str) -> None:
    with pytest.raises(CodesError, match=message):
        Codes.from_npz(zipped(members))


def test_repeated_and_oddly_compressed_members_are_refused() -> None:
    with pytest.raises(CodesError, match="neither stored nor deflated"):
        Codes.from_npz(zipped({"level_0.npy": npy([1])}, zipfile.ZIP_BZIP2))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("level_0.npy", npy([1]))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("level_0.npy", npy([1]))
    with pytest.raises(CodesError, match="repeated member 'level_0'"):
        Codes.from_npz(file.getvalue())


def test_msgpack_bytes_must_be_whole_codes() -> None:
    with pytest.raises(CodesError, match="level 0: 3 bytes are not whole uint16 codes"):
        Codes.from_msgpack(msgpack.packb({"codes": [b"abc", b"", b""]}), SNAC_24KHZ)
