"""Object stores, with a real server of the S3 protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from bulk.errors import OutputError, SourceError
from bulk.output import Output, RowOptions, locked
from bulk.sources import Options, find_source
from snac_core.codec import Codec
from tests.bulk.conftest import RECORDINGS, Encode, levels
from tests.bulk.test_output import written

server = pytest.importorskip("moto.server", reason="moto is not installed")

Alone = Callable[..., list[list[int]]]


@pytest.fixture(scope="module")
def bucket(corpus: Path) -> Iterator[str]:
    """A bucket with recordings, and the URL that it has."""
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        system = pyarrow.fs.S3FileSystem(
            endpoint_override=f"http://{host}:{port}", allow_bucket_creation=True
        )
        system.create_dir("corpora")
        for name in RECORDINGS:
            with system.open_output_stream(f"corpora/speech/{name}") as file:
                file.write((corpus / name).read_bytes())
        audio = [{"bytes": (corpus / name).read_bytes(), "path": name} for name in RECORDINGS]
        with system.open_output_stream("corpora/rows/0.parquet") as file:
            pq.write_table(pa.table({"audio": audio, "text": list(RECORDINGS)}), file)
        with system.open_output_stream("corpora/m.csv") as file:
            file.write(("path\n" + "\n".join(f"speech/{name}" for name in RECORDINGS)).encode())
        yield "s3://corpora"
    moto.stop()


@pytest.mark.parametrize(
    ("place", "ids"),
    [
        ("speech", list(RECORDINGS)),
        ("speech/a/*.wav", ["short.wav", "stereo.wav"]),
        ("m.csv", [f"speech/{name}" for name in RECORDINGS]),
        ("rows", [f"0.parquet#{number}" for number in range(4)]),
    ],
)
def test_what_lies_in_an_object_store_is_read(
    bucket: str, place: str, ids: list[str], corpus: Path, encode_here: Encode, alone: Alone
) -> None:
    table, told = encode_here(f"{bucket}/{place}")
    assert told["reason"].to_pylist() == [None] * len(ids)
    assert table["id"].to_pylist() == ids
    for row in table.to_pylist():
        name = row.get("text") or row["id"].removeprefix("speech/")
        found = corpus / name if "/" in name else corpus / "a" / name
        assert levels(row) == alone(found)


def test_an_output_in_an_object_store_is_like_one_on_disk(
    bucket: str, corpus: Path, encode_here: Encode, codec: Codec
) -> None:
    table, told = encode_here(corpus)
    place = f"{bucket}/out"
    output = written(place, table, told, codec, "parquet", RowOptions())  # type: ignore[arg-type]
    # What a run that was killed left.
    system, path = pyarrow.fs.FileSystem.from_uri(f"{place}/tokens-0.parquet")
    with system.open_output_stream(path) as file:
        file.write(b"PAR1")
    with locked(output.lock, output.folder):
        with (
            pytest.raises(OutputError, match="another run is writing to s3://corpora/out"),
            locked(output.lock, output.folder),
        ):
            pass
        again = Output(place)
        again.load()
        again.clean()
        (shard,) = again.shards()
        assert again.read_shard(shard).equals(table)
        assert again.write_errors()["id"].to_pylist() == ["broken.wav"]
    with locked(output.lock, output.folder):
        pass
    assert system.get_file_info([path])[0].type == pyarrow.fs.FileType.NotFound


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    with pytest.raises(SourceError, match="s3://nowhere/speech"):
        next(find_source("s3://nowhere/speech", Options(kind="folder")).tables())
