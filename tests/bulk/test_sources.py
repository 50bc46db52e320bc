from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk.errors import SourceError
from bulk.plan import make_plan
from bulk.sources import Options, find_source
from tests.bulk.conftest import NOTHING_DONE, RECORDINGS, Encode, levels, record

TEXTS = dict(zip(RECORDINGS, ["one", "zwei", "trois", "أربعة"], strict=True))
AGES = dict(zip(RECORDINGS, [1, 20, 300, None], strict=True))

Alone = Callable[..., list[list[int]]]
Ids = dict[str, str]


def rows_of(corpus: Path) -> Iterator[dict[str, object]]:
    for name in RECORDINGS:
        path = str(corpus / name)
        yield {"id": f"clip-{name}", "path": path, "text": TEXTS[name], "age": AGES[name]}


def table_of(corpus: Path) -> pa.Table:
    """Rows of recordings as `datasets` keeps them."""
    audio = [{"bytes": (corpus / name).read_bytes(), "path": name} for name in RECORDINGS]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table(
        {
            "audio": pa.array(audio, kind),
            "text": list(TEXTS.values()),
            "age": pa.array(AGES.values(), pa.int16()),
            "words": [[text] for text in TEXTS.values()],
        }
    )


def as_csv(corpus: Path, folder: Path) -> tuple[str, Ids]:
    with (folder / "m.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "path", "text", "age"])
        writer.writeheader()
        writer.writerows(rows_of(corpus))
    return "m.csv", {name: f"clip-{name}" for name in RECORDINGS}


def as_jsonl(corpus: Path, folder: Path) -> tuple[str, Ids]:
    lines = "\n".join(json.dumps(row) for row in rows_of(corpus))
    with gzip.open(folder / "m.jsonl.gz", "wt") as file:
        file.write(lines)
    return "m.jsonl.gz", {name: f"clip-{name}" for name in RECORDINGS}


def as_nemo(corpus: Path, folder: Path) -> tuple[str, Ids]:
    lines = []
    for row, (rate, _, samples) in zip(rows_of(corpus), RECORDINGS.values(), strict=True):
        path = row.pop("path")
        del row["id"]
        # NeMo's tools round the length.
        lines.append(
            json.dumps({"audio_filepath": path, "duration": round(samples / rate, 2), **row})
        )
    (folder / "nemo.json").write_text("\n".join(lines))
    return "nemo.json", {name: str(corpus / name) for name in RECORDINGS}


def as_table(corpus: Path, folder: Path) -> tuple[str, Ids]:
    pq.write_table(pa.Table.from_pylist(list(rows_of(corpus))), folder / "m.parquet")
    return "m.parquet", {name: f"clip-{name}" for name in RECORDINGS}


def as_lhotse(corpus: Path, folder: Path) -> tuple[str, Ids]:
    lines = []
    for row, (rate, channels, samples) in zip(rows_of(corpus), RECORDINGS.values(), strict=True):
        source = {"type": "file", "channels": list(range(channels)), "source": row["path"]}
        recording = {"id": "r", "sources": [source], "duration": samples / rate}
        said = [{"text": row["text"], "speaker": "s", "start": 0, "duration": 1, "id": "u"}]
        cut = {"id": row["id"], "start": 0.0, "duration": samples / rate, "channel": 0}
        cut |= {"type": "MonoCut", "recording": recording, "supervisions": said, "age": row["age"]}
        lines.append(json.dumps(cut))
    (folder / "cuts.jsonl").write_text("\n".join(lines))
    return "cuts.jsonl", {name: f"clip-{name}" for name in RECORDINGS}


def as_kaldi(corpus: Path, folder: Path) -> tuple[str, Ids]:
    ids = {name: f"utt-{number}" for number, name in enumerate(RECORDINGS)}
    (folder / "wav.scp").write_text("".join(f"{ids[n]} {corpus / n}\n" for n in RECORDINGS))
    (folder / "text").write_text("".join(f"{ids[n]} {TEXTS[n]}\n" for n in RECORDINGS))
    (folder / "utt2spk").write_text("".join(f"{ids[n]} s\n" for n in RECORDINGS))
    return ".", ids


def as_parquet(corpus: Path, folder: Path) -> tuple[str, Ids]:
    pq.write_table(table_of(corpus), folder / "train.parquet", row_group_size=3)
    return "*.parquet", {n: f"train.parquet#{i}" for i, n in enumerate(RECORDINGS)}


def as_arrow(corpus: Path, folder: Path) -> tuple[str, Ids]:
    table = table_of(corpus)
    with pa.ipc.new_stream(str(folder / "data-00000.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=3)
    return ".", {n: f"data-00000.arrow#{i}" for i, n in enumerate(RECORDINGS)}


def as_tar(corpus: Path, folder: Path) -> tuple[str, Ids]:
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, name in enumerate(RECORDINGS):
            members = {
                name.rpartition(".")[2]: (corpus / name).read_bytes(),
                "json": json.dumps({"age": AGES[name]}).encode(),
                "txt": TEXTS[name].encode(),
            }
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{number:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return "{0..0}.tar", {n: f"0.tar/{i:06d}" for i, n in enumerate(RECORDINGS)}


@pytest.mark.parametrize(
    "make",
    [as_csv, as_jsonl, as_nemo, as_table, as_lhotse, as_kaldi, as_parquet, as_arrow, as_tar],
    ids=lambda make: make.__name__,
)
def test_every_kind_of_input_gives_the_codes_of_its_recordings_and_carries_its_columns(
    make: Callable[[Path, Path], tuple[str, Ids]],
    corpus: Path,
    tmp_path: Path,
    encode_here: Encode,
    alone: Alone,
) -> None:
    name, ids = make(corpus, tmp_path)
    table, _ = encode_here(str(tmp_path / name).removesuffix("/."))
    found = {row["id"]: row for row in table.to_pylist()}
    assert found.keys() == set(ids.values())
    for recording, own_id in ids.items():
        row = found[own_id]
        # A cut of Lhotse names its channel.
        channel = 0 if make is as_lhotse and RECORDINGS[recording][1] > 1 else "average"
        assert levels(row) == alone(corpus / recording, channel=channel)
        assert row["text"] == TEXTS[recording]
        age = AGES[recording]
        if make is as_csv:
            assert row["age"] == ("" if age is None else str(age))
        elif make is not as_kaldi:
            assert row["age"] == age
    if make in (as_parquet, as_arrow):
        assert table.schema.field("age").type == pa.int16()
        assert table.schema.field("words").type == pa.list_(pa.string())


def test_a_folder_names_clips_by_their_paths_and_says_why_one_failed(
    corpus: Path, encode_here: Encode, alone: Alone
) -> None:
    table, told = encode_here(corpus, clips=2)
    rows = {row["id"]: row for row in table.to_pylist()}
    assert rows.keys() == RECORDINGS.keys()
    assert all(levels(rows[name]) == alone(corpus / name) for name in RECORDINGS)
    (failed,) = [row for row in told.to_pylist() if row["status"] == "failed"]
    assert failed["id"] == "broken.wav"
    assert "not readable as audio" in failed["reason"]


def test_a_manifest_of_segments_reads_each_as_if_it_were_a_file(
    tmp_path: Path, encode_here: Encode, alone: Alone
) -> None:
    import soundfile

    whole = record(tmp_path, "whole.flac", 16000, 1, 50000)
    samples, _ = soundfile.read(whole, dtype="float32")
    # Overlapping, out of order, one to the end.
    cuts = [(1.5, 1.0), (0.25, 1.75), (2.0, 1.125)]
    lines = [{"audio_filepath": "whole.flac", "offset": o, "duration": d} for o, d in cuts]
    lines.append({"audio_filepath": "whole.flac", "offset": 3.0, "duration": 9.0})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    table, told = encode_here(tmp_path / "m.jsonl")
    rows = table.to_pylist()
    assert len(rows) == 3
    for row, (offset, duration) in zip(rows, cuts, strict=True):
        part = samples[round(offset * 16000) : round((offset + duration) * 16000)]
        soundfile.write(tmp_path / "part.wav", part, 16000, subtype="FLOAT")
        assert levels(row) == alone(tmp_path / "part.wav")
        assert (row["id"], row["offset"]) == (f"whole.flac@{offset:g}", offset)
        assert row["input_duration"] == duration
        assert row["duration"] == pytest.approx(duration, abs=1e-4)
    (failed,) = [row for row in told.to_pylist() if row["status"] == "failed"]
    assert failed["reason"].startswith("the segment from 3.0 s to 12 s is not within the recording")


def test_kaldi_segments_cut_recordings_and_commands_are_not_run(
    tmp_path: Path, encode_here: Encode
) -> None:
    record(tmp_path, "r.wav", 8000, 1, 16000)
    (tmp_path / "wav.scp").write_text(f"r {tmp_path}/r.wav\nx touch {tmp_path}/ran |\n")
    (tmp_path / "segments").write_text("u1 r 0.0 1.0\nu2 r 1.0 1.5\nu3 x 0 1\n")
    table, told = encode_here(tmp_path)
    assert table["num_samples"].to_pylist() == [24000, 12000]
    assert not (tmp_path / "ran").exists()
    assert "a command, which is not run" in told.to_pylist()[2]["reason"]


def test_clips_with_one_id_are_refused_and_named(corpus: Path, tmp_path: Path) -> None:
    path = corpus / "a/short.wav"
    (tmp_path / "m.csv").write_text(f"id,path\nx,{path}\ny,{path}\nx,{path}\n")
    with pytest.raises(SourceError, match=r"1 clips have an id that another has, such as 'x'"):
        make_plan(find_source(str(tmp_path / "m.csv"), Options()), NOTHING_DONE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "a,b\n1,2\n", "m.csv has no column of recordings .*its columns are a, b"),
        ("m.jsonl", '{"path": "a.wav"}\n{"path"', "m.jsonl, line 2: not JSON"),
        ("m.jsonl", '{"path": "x", "n": 1}\n{"path": "y", "n": "2"}', "column 'n'"),
        ("m.csv", "path,offset\na.wav,soon\n", "column 'offset' holds no seconds"),
        ("m.parquet", "PAR1", "m.parquet cannot be read"),
        ("m.tar", "nothing of a tar file", "m.tar cannot be read as a tar file"),
    ],
)
def test_an_input_that_is_not_what_it_is_said_to_be_is_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        make_plan(find_source(str(tmp_path / name), Options()), NOTHING_DONE)


def test_groups_keep_the_segments_of_a_file_together_and_nothing_is_lost(tmp_path: Path) -> None:
    rows = [f"{number},f{number // 7}.wav,{number},1" for number in range(100)]
    (tmp_path / "m.csv").write_text("id,path,offset,duration\n" + "\n".join(rows))
    plan = make_plan(find_source(str(tmp_path / "m.csv"), Options()), NOTHING_DONE)
    groups = [group["id"].to_pylist() for group in plan.groups(10)]
    assert [len(group) for group in groups] == [14] * 7 + [2]
    assert [int(one) for group in groups for one in group] == list(range(100))
    assert plan.seconds == 100
    ids = np.sort(plan.ids)
    plan.close()
    assert len(ids) == len(np.unique(ids)) == 100
