from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import uvicorn

from bulk.cli import main
from bulk.encode import EncodeOptions, encode
from bulk.errors import OutputError, TooManyErrorsError
from bulk.output import Output, RowOptions, locked
from bulk.progress import Summary
from service.app import create_app
from service.server.http_protocol import server_config
from service.settings import Settings
from snac_core.codec import Codec
from snac_core.codes import Codes
from tests.bulk.conftest import RECORDINGS, levels, make_model, record

Alone = Callable[..., list[list[int]]]


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of an output by their ids, each of which it must hold once."""
    tables = [pq.read_table(path) for path in folder.glob("tokens-*.parquet")]
    found = pa.concat_tables(tables).to_pylist()
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row for row in found}


@pytest.fixture(scope="module")
def encoded(
    local_ray: None, corpus: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EncodeOptions, Summary]:
    output = tmp_path_factory.mktemp("out") / "tokens"
    options = EncodeOptions(
        [str(corpus)], str(output), str(model), codecs=1, clips_per_shard=2, batch_seconds=1.0
    )
    return options, encode(options)


@pytest.fixture
def listening(model: Path) -> Iterator[httpx.Client]:
    import socket
    import threading

    settings = Settings(model=str(model))
    app = create_app(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(server_config(app, settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        app.state.service.lifecycle.join()
        with httpx.Client(base_url=url, timeout=60) as http:
            yield http
        server.should_exit = True
        thread.join()


def test_codes_are_those_that_the_service_answers(
    encoded: tuple[EncodeOptions, Summary], corpus: Path, listening: httpx.Client
) -> None:
    options, summary = encoded
    found = rows(Path(options.output))
    assert found.keys() == RECORDINGS.keys()
    for name, row in found.items():
        answer = listening.post("/v1/encode", content=(corpus / name).read_bytes()).json()
        assert levels(row) == answer["codes"]
        assert row["num_samples"] == answer["num_samples"]
        assert row["token_space"] == answer["model"]["token_space"]
        assert row["model_version"] == answer["model"]["version"]
    assert (summary.done, summary.failed, summary.remaining) == (4, 1, 0)
    # Rows that had changed places would be noticed: no clip has the codes of another.
    assert len({str(levels(row)) for row in found.values()}) == len(found)


def test_failures_are_named_with_their_reasons(encoded: tuple[EncodeOptions, Summary]) -> None:
    options, summary = encoded
    (row,) = pq.read_table(Path(options.output) / "errors.parquet").to_pylist()
    assert row["id"] == "broken.wav"
    assert summary.reasons == {row["reason"]: 1}
    assert row["reason"].startswith("not readable as audio")


def test_the_next_run_does_what_failed_and_changed_and_what_is_new(
    encoded: tuple[EncodeOptions, Summary], model: Path, tmp_path: Path, alone: Alone
) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    for name in ("1.wav", "2.wav", "3.wav"):
        record(corpus, name, 24000, 1, 3000 + ord(name[0]))
    (corpus / "4.wav").write_bytes(b"RIFF")
    options = EncodeOptions([str(corpus)], str(output), str(model), codecs=1)
    assert encode(options).failed == 1
    before = rows(output)
    record(corpus, "2.wav", 24000, 1, 9000)
    record(corpus, "4.wav", 24000, 1, 5000)
    record(corpus, "5.wav", 24000, 1, 6000)

    summary = encode(options)

    assert (summary.skipped, summary.done, summary.failed) == (2, 3, 0)
    after = rows(output)
    assert after.keys() == {f"{number}.wav" for number in range(1, 6)}
    assert {name: after[name] for name in ("1.wav", "3.wav")} == {
        name: before[name] for name in ("1.wav", "3.wav")
    }
    assert all(levels(after[name]) == alone(corpus / name) for name in after)
    assert not (output / "errors.parquet").exists()
    assert encode(options).done == 0


def test_shards_that_a_killed_run_left_do_not_count(
    encoded: tuple[EncodeOptions, Summary], tmp_path: Path
) -> None:
    options, _ = encoded
    output = tmp_path / "tokens"
    shutil.copytree(options.output, output)
    before = rows(output)
    # Killed after a shard was written, and before its entry was.
    known = sorted((output / ".snac-bulk/ledger").iterdir())
    statuses = {one: pa.ipc.open_file(one).read_all()["status"].to_pylist() for one in known}
    lost = next(one for one in known if "failed" not in statuses[one])
    lost.unlink()
    (output / ".tmp-tokens-1.parquet-123").write_bytes(b"PAR1")
    summary = encode(dataclasses.replace(options, output=str(output)))
    assert summary.done == len(statuses[lost])
    assert rows(output) == before
    assert not list(output.glob(".tmp-*"))


def test_the_second_run_on_an_output_says_so_and_stops(
    encoded: tuple[EncodeOptions, Summary], capsys: pytest.CaptureFixture[str]
) -> None:
    options, _ = encoded
    output = Output(options.output)
    with locked(output.lock, output.folder):
        with pytest.raises(OutputError, match=rf"another run is writing .*process {os.getpid()}"):
            encode(options)
        command = ["encode", options.inputs[0], "--output", options.output]
        assert main([*command, "--model", options.model]) == 1
    assert "another run is writing to" in capsys.readouterr().err


def test_an_output_has_one_token_space_and_one_set_of_columns(
    encoded: tuple[EncodeOptions, Summary], tmp_path: Path
) -> None:
    options, _ = encoded
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(OutputError, match="was begun with token_space"):
        encode(dataclasses.replace(options, model=str(other)))
    with pytest.raises(OutputError, match="was begun with rows"):
        encode(dataclasses.replace(options, rows=RowOptions(layout="orpheus")))
    (tmp_path / "stray.txt").write_text("something of somebody's")
    with pytest.raises(OutputError, match=r"holds other files, such as .*stray\.txt"):
        encode(dataclasses.replace(options, output=str(tmp_path)))


def test_a_run_stops_at_too_many_errors_and_keeps_what_it_did(
    encoded: tuple[EncodeOptions, Summary], corpus: Path, model: Path, tmp_path: Path
) -> None:
    options = EncodeOptions(
        [str(corpus)], str(tmp_path / "out"), str(model), codecs=1, max_errors=0
    )
    with pytest.raises(TooManyErrorsError, match=r"1 clips failed, and --max-errors is 0"):
        encode(options)
    assert rows(tmp_path / "out").keys() == RECORDINGS.keys()


def test_the_command_of_version_0_1_goes_on_working(
    encoded: tuple[EncodeOptions, Summary],
    corpus: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = str(tmp_path / "out")
    options = ["--input-dir", str(corpus), "--output-dir", output, "--model", str(model)]
    assert main(["tokenize", *options, "--num-actors", "1", "--device", "cpu"]) == 3
    printed = capsys.readouterr()
    assert printed.out == (
        "encoded 4 clips (4.3 s of audio), failed 1, left out 0, skipped 0 already done\n"
    )
    assert "1 x not readable as audio" in printed.err
    assert rows(tmp_path / "out").keys() == RECORDINGS.keys()


def kill_and_finish(model: Path, folder: Path, kills: int) -> None:
    """Run the command, kill it a few times, let it finish, and look at its rows."""
    corpus, output = folder / "corpus", folder / "out"
    for number in range(60):
        record(corpus, f"{number:03d}.wav", 16000, 1, 4000 + number)
    command = [sys.executable, "-m", "bulk.cli", "encode", str(corpus), "--output", str(output)]
    command += ["--model", str(model), "--num-actors", "1", "--clips-per-shard", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    entries = output / ".snac-bulk" / "ledger"

    def committed() -> int:
        return len(list(entries.glob("*.entry"))) if entries.exists() else 0

    for _ in range(kills):
        before = committed()
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            # As soon as this run has committed something, with more under way.
            while committed() <= before and process.poll() is None:
                time.sleep(0.005)
            assert process.poll() is None, process.communicate()
            process.send_signal(signal.SIGKILL)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(output).keys() == {f"{number:03d}.wav" for number in range(60)}
    assert not list(output.rglob(".tmp-*"))


def test_killed_and_run_again_every_clip_is_there_once_and_nothing_else_is_said(
    model: Path, tmp_path: Path
) -> None:
    # `make clusters` kills it five times.
    kill_and_finish(model, tmp_path, kills=1)


def test_rows_decode_and_verify(
    encoded: tuple[EncodeOptions, Summary],
    codec: Codec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options, _ = encoded
    target = tmp_path / "audio"
    common = ["--model", options.model, "--num-actors", "1"]
    assert main(["decode", options.output, "--output", str(target), *common]) == 0
    assert "decoded 4 clips (4.3 s of audio)" in capsys.readouterr().out
    for name, row in rows(Path(options.output)).items():
        wave = target / (name if name.lower().endswith(".wav") else f"{name}.wav")
        (expected,) = codec.decode([Codes(levels(row), row["num_samples"], 24000)])  # type: ignore[arg-type]
        samples, rate = soundfile.read(wave, dtype="float32")
        assert (rate, len(samples)) == (24000, row["num_samples"])
        np.testing.assert_allclose(samples, expected, atol=2**-15)
    assert main(["decode", options.output, "--output", str(target), *common]) == 0
    assert "skipped 4 already there" in capsys.readouterr().out

    assert main(["verify", options.output, "--sample", "3", *common]) == 0
    assert "verified 4 rows, encoded 3 again, found 0 faults" in capsys.readouterr().out
    # A code is changed, and a row taken out.
    output = tmp_path / "tokens"
    shutil.copytree(options.output, output)
    shard = max(output.glob("tokens-*.parquet"), key=lambda path: path.stat().st_size)
    table = pq.read_table(shard)
    values = table["level_2"].to_pylist()
    values[0][3] = (values[0][3] + 1) % 64
    at = table.column_names.index("level_2")
    table = table.set_column(at, "level_2", pa.array(values, table.schema.field("level_2").type))
    pq.write_table(table.slice(0, 1), shard)
    assert main(["verify", str(output), "--codes-only", *common]) == 3
    told = capsys.readouterr()
    assert "encoded again, level_2 differs" in told.err
    assert "no row has it" in told.err or table.num_rows == 1
