from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from bulk.decode import Decoder, check_token_space
from bulk.output import Output, RowOptions
from bulk.verify import Verifier, against_ledger, encode_again
from snac_core.codec import Codec
from snac_core.errors import TokenSpaceError
from snac_core.store import checkpoint
from tests.bulk.conftest import RECORDINGS, Encode, make_model
from tests.bulk.test_output import written


@pytest.fixture(params=["levels", "training rows"])
def output(
    request: pytest.FixtureRequest,
    corpus: Path,
    encode_here: Encode,
    codec: Codec,
    tmp_path: Path,
) -> Output:
    lines = [f'{{"path": "{corpus / name}", "text": "x"}}' for name in RECORDINGS]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(lines))
    rows = RowOptions(training_rows=request.param == "training rows")
    table, told = encode_here(manifest, rows=rows)
    made = written(tmp_path / "out", table, told, codec, "parquet", rows)
    source = {"kind": "auto", "audio_column": None, "id_column": None, "split": "train"}
    made.settings |= {"inputs": [str(manifest)], "source": source, "channel": "average"}
    return made


def test_rows_become_the_recordings_that_the_codec_decodes(
    output: Output, model: Path, corpus: Path, codec: Codec, tmp_path: Path
) -> None:
    decoder = Decoder(checkpoint.read(model), "cpu", output.folder)
    (shard,) = output.shards()
    target = tmp_path / "audio"
    made = decoder.decode(shard, str(target), ".wav", "wav")
    assert (made.written, made.skipped, made.faults) == (4, 0, ())
    assert made.seconds == pytest.approx(4.279, abs=1e-3)
    for row in output.read_shard(shard).to_pylist():
        codes = decoder.rows.codes(row)
        (expected,) = codec.decode([codes])
        name = row["id"].lstrip("/")
        wave = target / (name if name.lower().endswith(".wav") else f"{name}.wav")
        samples, rate = soundfile.read(wave, dtype="float32")
        assert (rate, len(samples)) == (24000, row["num_samples"])
        np.testing.assert_allclose(samples, expected, atol=2**-15)
    again = decoder.decode(shard, str(target), ".wav", "wav")
    assert (again.written, again.skipped) == (0, 4)


def test_a_whole_output_has_no_faults(output: Output, model: Path) -> None:
    found = checkpoint.read(model)
    verifier = Verifier(found, "cpu", output.folder)
    (shard,) = output.shards()
    ids, faults = verifier.verify(shard, True)
    assert len(ids) == 4
    assert faults == against_ledger(output, ids) == encode_again(output, found, ids, "cpu") == []


@pytest.mark.parametrize("output", ["levels"], indirect=True)
def test_what_is_wrong_with_rows_is_named(output: Output, model: Path) -> None:
    found = checkpoint.read(model)
    (shard,) = output.shards()
    path = Path(output.folder, shard)
    table = pq.read_table(path)
    changed = table.to_pylist()[:3]
    changed[0]["level_2"][3] = (changed[0]["level_2"][3] + 1) % 64
    changed[1]["level_1"] = changed[1]["level_1"][:-1]
    changed[2]["duration"] += 1
    changed.append({**changed[0], "token_space": "another"})
    pq.write_table(pa.Table.from_pylist(changed, table.schema), path)
    ids, faults = Verifier(found, "cpu", output.folder).verify(shard, False)
    assert [fault.split(": ", 2)[2][:30] for fault in faults] == [
        "level 1 holds 17 codes; 9 coar",
        f"its duration is {changed[2]['duration']}, and num_samples"[:30],
        "it is of token space another",
    ]
    told = against_ledger(output, ids)
    assert "and no row has it" in told[0]
    assert told[1] == "1 rows have an id that another row has"
    again = encode_again(output, found, [ids[0]], "cpu")
    assert again == [f"{ids[0]}: encoded again, level_2 differs"]


def test_a_model_of_another_token_space_is_refused(
    corpus: Path, encode_here: Encode, codec: Codec, tmp_path: Path
) -> None:
    table, told = encode_here(corpus)
    output = written(tmp_path / "out", table, told, codec, "parquet", RowOptions())
    other = checkpoint.read(make_model(tmp_path / "other", seed=5))
    with pytest.raises(TokenSpaceError, match="holds codes of token space"):
        check_token_space(output, other)
