"""npz files of whole numbers, read without trusting them.

An npz is a zip of npy files. ``numpy.load`` allocates what their headers declare; here
the names and sizes in the zip's directory are checked first, and the arrays are sized by
the data that is there.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from snac_core.errors import CodesError

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MOST_END_BYTES = 22 + 2**16
_MOST_DIRECTORY_BYTES = 2**14
_DTYPE = re.compile(rb"'descr'\s*:\s*'([<>|][iu][1248])'")
_SHAPE = re.compile(rb"'shape'\s*:\s*\(\s*(?:(\d{1,15})\s*,)?\s*\)")


def pack(members: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return an npz file. Equal arrays give equal bytes: no time is written."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in members.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), member.getvalue())
    return file.getvalue()


def unpack(data: bytes, allowed: Collection[str], max_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """Return the members of an npz file: arrays of whole numbers with one or no dimension.

    Parameters
    ----------
    data
        The file.
    allowed
        Names that members may have.
    max_bytes
        Bytes that all members may have once unpacked.

    Raises
    ------
    CodesError
        For a file that is damaged, too large once unpacked, or has other members.
    """
    try:
        _check_directory(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            names = [member.filename.removesuffix(".npy") for member in members]
            for name in names:
                if name not in allowed or names.count(name) > 1:
                    raise CodesError(f"unexpected or repeated member {name[:40]!r} in the npz")
            total = sum(member.file_size for member in members)
            if total > max_bytes:
                raise CodesError(
                    f"the npz has {total} bytes once unpacked; at most {max_bytes} are read"
                )
            return {
                name: _array(name, _bytes(archive, member))
                for name, member in zip(names, members, strict=True)
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise CodesError(f"not an npz file of codes: {error}") from None


def _check_directory(data: bytes) -> None:
    """Refuse a directory of more members than codes have, before all of them are read.

    The record at an archive's end, APPNOTE.TXT 4.3.16; a zip64 archive has another before it.
    """
    end = data.rfind(b"PK\x05\x06", -_MOST_END_BYTES)
    size = int.from_bytes(data[end + 12 : end + 16], "little")
    if end >= 0 and (size > _MOST_DIRECTORY_BYTES or data[end - 20 : end - 16] == b"PK\x06\x07"):
        raise CodesError(
            f"the npz has a directory of {size} bytes, for more members than codes have"
        )


def _bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Unpack no more than the member's declared size, whatever its data would give."""
    # Of the zip methods only these two can be unpacked piecewise by the standard library.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CodesError(f"member {member.filename} of the npz is neither stored nor deflated")
    with archive.open(member) as file:
        return file.read(member.file_size)


def _array(name: str, data: bytes) -> npt.NDArray[Any]:
    """Read npy: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html ."""
    start = 10 if data[6:7] == b"\x01" else 12
    end = start + int.from_bytes(data[8:start], "little")
    kind, shape = _DTYPE.search(data, start, end), _SHAPE.search(data, start, end)
    if data[:6] != b"\x93NUMPY" or kind is None or shape is None:
        raise CodesError(f"member {name} of the npz must be whole numbers with one or no dimension")
    dtype, body = np.dtype(kind[1].decode()), data[end:]
    count = int(shape[1] or 1)
    if len(body) != count * dtype.itemsize:
        raise CodesError(
            f"member {name} of the npz has {len(body)} bytes, which are not {count} of {dtype}"
        )
    array = np.frombuffer(body, dtype=dtype)
    return array if shape[1] else array.reshape(())
