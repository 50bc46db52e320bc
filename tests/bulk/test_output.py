from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from bulk.cli import FORMATS as FORMATS_OF_COMMAND
from bulk.cli import SOURCES
from bulk.decode import recording_name
from bulk.errors import OutputError
from bulk.output import FORMATS, Output, RowOptions, RowWriter, card
from bulk.output.rows import without_repeated_frames
from bulk.plan import hashes
from bulk.sources import KINDS
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.errors import LayoutError
from snac_core.layouts import from_layout, to_layout
from tests.bulk.conftest import CONFIG, RECORDINGS, Encode, levels

Alone = Callable[..., list[list[int]]]


@pytest.fixture(scope="module")
def manifest(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    rows = [
        {"id": name, "path": str(corpus / name), "text": f"text {number}", "age": number}
        for number, name in enumerate(RECORDINGS)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def written(
    folder: Path, table: pa.Table, told: pa.Table, codec: Codec, kind: str, rows: RowOptions
) -> Output:
    """Write an output of one shard."""
    output = Output(str(folder))
    output.make()
    fixed = {"id", "path", "duration", "num_samples", "sample_rate", "codes", "codes_list"}
    fixed |= {"model_version", "token_space", "level_0", "level_1", "level_2"}
    through = [field for field in table.schema if field.name not in fixed]
    settings = {
        "format": kind,
        "rows": dataclasses.asdict(rows),
        "token_space": codec.token_space,
        "model_version": codec.version,
        "sample_rate": 24000,
        "codes_per_frame": [1, 2, 4],
    }
    output.begin(settings, table.schema, pa.schema(through))
    output.ledger.commit(told, output.write_shard(told, table))
    return output


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_reads_back_as_it_was_written(
    kind: str, manifest: Path, encode_here: Encode, codec: Codec, tmp_path: Path
) -> None:
    options = RowOptions(layout="orpheus", base=10)
    # The layout is for codebooks of at most 4096 codes; this model has 64.
    table, told = encode_here(manifest, rows=options)
    output = written(tmp_path / "out", table, told, codec, kind, options)
    again = Output(output.folder)
    again.load()
    (shard,) = again.shards()
    assert again.read_shard(shard).select(table.column_names).equals(table)
    writer = RowWriter(CONFIG, "v", codec.token_space, again.carried, again.row_options)
    for row in again.read_shard(shard).to_pylist():
        codes = writer.codes(row)
        assert to_layout(codes.levels, "orpheus", config=CONFIG, base=10) == row["codes"]


# The reader of webdataset leaves the file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_programs_read_the_rows(
    manifest: Path,
    encode_here: Encode,
    codec: Codec,
    tmp_path: Path,
    alone: Alone,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    table, told = encode_here(manifest)
    for kind in FORMATS:
        written(tmp_path / kind, table, told, codec, kind, RowOptions())
    files = str(tmp_path / "parquet/tokens-*.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.features["level_0"].feature.dtype == "int16"
    assert [row["text"] for row in loaded] == [f"text {n}" for n in range(4)]
    assert all(levels(row) == alone(corpus / row["id"]) for row in loaded)
    (tar,) = (tmp_path / "webdataset").glob("*.tar")
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    for sample, row in zip(samples, table.to_pylist(), strict=True):
        assert json.loads(sample["json"])["id"] == row["id"]
        assert sample["txt"].decode() == row["text"]
        assert [list(level) for level in Codes.from_npz(sample["npz"]).levels] == levels(row)
    (lines,) = (tmp_path / "jsonl").glob("*.jsonl")
    assert [json.loads(line) for line in lines.read_text().splitlines()] == table.to_pylist()


def test_training_rows_are_text_and_tokens_as_orpheus_recipe_makes_them(
    manifest: Path, encode_here: Encode, corpus: Path, alone: Alone
) -> None:
    table, _ = encode_here(manifest, rows=RowOptions(training_rows=True))
    assert {"id", "text", "codes_list", "age"} <= {*table.column_names}
    assert not any(name.startswith("level_") for name in table.column_names)
    dropped, _ = encode_here(
        manifest, rows=RowOptions(training_rows=True, drop_repeated_frames=True)
    )
    for row, short in zip(table.to_pylist(), dropped.to_pylist(), strict=True):
        one, two, three = alone(corpus / row["id"])
        # The recipe, written out.
        expected: list[int] = []
        for i, first in enumerate(one):
            codes = [first, two[2 * i], three[4 * i], three[4 * i + 1]]
            codes += [two[2 * i + 1], three[4 * i + 2], three[4 * i + 3]]
            expected += [128266 + 4096 * place + code for place, code in enumerate(codes)]
        assert row["codes_list"] == expected
        kept = expected[:7]
        for i in range(7, len(expected), 7):
            if expected[i] != kept[-7]:
                kept += expected[i : i + 7]
        assert short["codes_list"] == kept


def test_frames_that_repeat_the_coarse_code_before_them_are_dropped() -> None:
    one = np.array([5, 5, 6, 5], np.int32)
    two, three = np.arange(8, dtype=np.int32), np.arange(16, dtype=np.int32)
    short = without_repeated_frames((one, two, three), CONFIG)
    assert [level.tolist() for level in short] == [
        [5, 6, 5],
        [0, 1, 4, 5, 6, 7],
        [0, 1, 2, 3, *range(8, 16)],
    ]
    tokens = to_layout(short, "flat", config=CONFIG)
    assert len(from_layout(tokens, "flat", config=CONFIG)[0]) == 3


def test_training_rows_need_a_text_and_a_layout_that_fits(
    encode_here: Encode, corpus: Path
) -> None:
    with pytest.raises(OutputError, match=r"training rows need a text, .* no column 'text'"):
        encode_here(corpus, rows=RowOptions(training_rows=True))
    with pytest.raises(LayoutError, match="layout flat takes no base"):
        encode_here(corpus, rows=RowOptions(layout="flat", base=7))


def test_what_is_done_again_leaves_the_output_first(
    manifest: Path, encode_here: Encode, codec: Codec, tmp_path: Path
) -> None:
    table, told = encode_here(manifest)
    output = written(tmp_path / "out", table, told, codec, "parquet", RowOptions())
    gone, *kept = RECORDINGS
    output.retire(hashes([gone]))
    again = Output(output.folder)
    again.load()
    (shard,) = again.shards()
    assert again.read_shard(shard)["id"].to_pylist() == kept
    assert len(list(Path(output.folder).glob("tokens-*"))) == 1
    again.retire(hashes(kept))
    assert not list(again.shards())
    assert not list(Path(output.folder).glob("tokens-*"))


def test_killed_while_an_entry_is_replaced_the_new_one_counts(
    manifest: Path, encode_here: Encode, codec: Codec, tmp_path: Path
) -> None:
    table, told = encode_here(manifest)
    output = written(tmp_path / "out", table, told, codec, "parquet", RowOptions())
    (old,) = Path(output.ledger.folder).iterdir()
    data = old.read_bytes()
    output.retire(hashes([next(iter(RECORDINGS))]))
    # The new entry was written, and the old one not yet removed.
    old.write_bytes(data)
    again = Output(output.folder)
    again.load()
    assert len(list(again.shards())) == 1
    assert not old.exists()
    assert len(again.ledger.done().ids) == 3


def test_the_card_tells_what_there_is(
    manifest: Path, encode_here: Encode, codec: Codec, tmp_path: Path
) -> None:
    table, told = encode_here(manifest)
    text = card(written(tmp_path / "out", table, told, codec, "parquet", RowOptions()), failed=3)
    assert "SNAC codes of 4 clips, 0.00 hours; 3 clips failed" in text
    assert f"| token space | `{codec.token_space}` |" in text
    assert "# license: to be filled in by the owner" in text
    assert "       2 - 5 s          1 ####" in text
    assert "| `age` | int64 | from the input |" in text


@pytest.mark.parametrize(
    ("clip", "name"),
    [
        ("a/b.wav", "a/b.wav"),
        ("a.flac", "a.flac.wav"),
        ("/etc/x", "etc/x.wav"),
        ("s3://bucket/x", "bucket/x.wav"),
        ("0.tar/7", "0.tar/7.wav"),
    ],
)
def test_recordings_are_named_by_their_ids(clip: str, name: str) -> None:
    assert recording_name(clip, ".wav") == name


@pytest.mark.parametrize("clip", ["../x", "a/../../x", ".."])
def test_an_id_does_not_lead_out_of_the_folder(clip: str) -> None:
    with pytest.raises(OutputError, match="no name of a file within the folder"):
        recording_name(clip, ".wav")


def test_the_command_offers_what_there_is() -> None:
    assert set(SOURCES) == set(KINDS)
    assert set(FORMATS_OF_COMMAND) == set(FORMATS)


def test_null_columns_and_others_types_go_through(
    corpus: Path, encode_here: Encode, tmp_path: Path
) -> None:
    table = pa.table(
        {
            "path": [str(corpus / name) for name in RECORDINGS],
            "nothing": pa.nulls(4),
            "day": pa.array([0, 1, 2, 3], pa.date32()),
            "token_space": ["mine"] * 4,
            "deep": pa.array([{"a": [1, 2]}] * 4),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    rows, _ = encode_here(tmp_path / "m.parquet")
    types: dict[str, Any] = {field.name: field.type for field in rows.schema}
    assert types["day"] == pa.date32()
    assert types["deep"] == table.schema.field("deep").type
    assert types["nothing"] == pa.string()
    assert rows["input_token_space"].to_pylist() == ["mine"] * 4
