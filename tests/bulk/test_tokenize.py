from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
import safetensors.torch
import soundfile
import torch

import bulk.tokenize
import snac_core
from bulk.cli import main
from bulk.shards import paths_done, shard_schema
from bulk.tokenize import Summary, Tokenizer, find_recordings, tokenize_corpus
from snac_core import audio
from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.errors import SnacError, TokenSpaceError
from snac_core.model import SNAC

# Ray Data warns of its own settings when it reads their defaults.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`use_(push_based_shuffle|polars|arrow_tensor_v2)` is deprecated:DeprecationWarning:ray"
)

CONFIG = SnacConfig(encoder_dim=4, decoder_dim=32, codebook_size=64, codebook_dim=4)
RECORDINGS = {
    "a/short.wav": (24000, 1, 700),
    "a/stereo.wav": (16000, 2, 12000),
    "b/long.flac": (24000, 1, 60000),
    "b/c/UPPER.WAV": (8000, 1, 8000),
}


def make_model(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    folder.mkdir()
    weights = {name: tensor.contiguous() for name, tensor in SNAC(CONFIG).state_dict().items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()), "utf-8")
    return folder


def record(folder: Path, name: str, rate: int, channels: int, samples: int) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(samples).normal(0, 0.1, (samples, channels))
    soundfile.write(path, noise, rate)


def rows(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(folder).to_pylist()
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="module")
def codec(model: Path) -> Codec:
    return snac_core.load(model, device="cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, shape in RECORDINGS.items():
        record(folder, name, *shape)
    (folder / "broken.wav").write_bytes(b"RIFF, but no more than that")
    (folder / "notes.txt").write_text("not a recording", "utf-8")
    return folder


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def tokenized(
    local_ray: None, corpus: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Summary]:
    output = tmp_path_factory.mktemp("out") / "tokens"
    summary = tokenize_corpus(corpus, output, str(model), num_actors=2, files_per_shard=2)
    return output, summary


def test_every_recording_gets_the_codes_it_gets_alone(
    tokenized: tuple[Path, Summary], corpus: Path, codec: Codec
) -> None:
    output, summary = tokenized
    by_path = {str(row["path"]): row for row in rows(output)}
    assert by_path.keys() == {*RECORDINGS, "broken.wav"}
    lengths = []
    for path in RECORDINGS:
        (alone,) = codec.encode([audio.read(corpus / path, codec.sample_rate)])
        row = by_path[path]
        levels = [row[f"level_{level}"] for level in range(3)]
        assert levels == [level.tolist() for level in alone.levels]
        assert (row["num_samples"], row["sample_rate"]) == (alone.num_samples, 24000)
        assert row["duration"] == alone.duration
        assert (row["model_version"], row["token_space"]) == (codec.version, codec.token_space)
        assert row["error"] is None
        lengths.append(alone.duration)
    assert summary.seconds == pytest.approx(sum(lengths))
    counts = dataclasses.replace(summary, seconds=0.0)
    assert counts == Summary(tokenized=4, failed=1, skipped=0, remaining=0, seconds=0.0)


def test_a_file_that_cannot_be_read_is_a_row_with_the_reason(
    tokenized: tuple[Path, Summary],
) -> None:
    (row,) = [row for row in rows(tokenized[0]) if row["path"] == "broken.wav"]
    assert row["error"]
    assert [row[f"level_{level}"] for level in range(3)] == [None, None, None]
    assert row["duration"] is None


def test_codes_are_stored_as_int16(tokenized: tuple[Path, Summary]) -> None:
    (first, *_) = sorted(tokenized[0].glob("*.parquet"))
    assert pq.read_schema(first).equals(shard_schema(CONFIG))
    assert shard_schema(CONFIG).field("level_2").type == pa.list_(pa.int16())
    large = dataclasses.replace(CONFIG, codebook_size=2**16)
    assert shard_schema(large).field("level_2").type == pa.list_(pa.int32())


def test_the_next_run_takes_up_only_what_is_missing(
    tokenized: tuple[Path, Summary], corpus: Path, model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tokens"
    shutil.copytree(tokenized[0], output)
    lost = min(output.glob("*.parquet"))
    missing = pq.read_table(lost)["path"].to_pylist()
    lost.unlink()
    kept = {shard.name: shard.read_bytes() for shard in output.glob("*.parquet")}
    # What a run killed while it wrote leaves behind.
    (output / f".tmp-{lost.name}-1234").write_bytes(b"PAR1")

    summary = tokenize_corpus(corpus, output, str(model))

    assert summary.tokenized + summary.failed == len(missing)
    assert summary.skipped == len(RECORDINGS) + 1 - len(missing)
    before = sorted(rows(tokenized[0]), key=lambda row: str(row["path"]))
    assert sorted(rows(output), key=lambda row: str(row["path"])) == before
    assert kept.items() <= {one.name: one.read_bytes() for one in output.glob("*.parquet")}.items()


def test_command_says_what_it_did(
    tokenized: tuple[Path, Summary],
    corpus: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--input-dir", str(corpus), "--output-dir", str(tokenized[0]), "--model", str(model)]
    assert main(["tokenize", *options]) == 0
    printed = capsys.readouterr().out
    assert printed == "tokenized 0 files (0.0 s of audio), failed 0, skipped 5 already done\n"


def test_command_fails_with_the_reason_in_one_line(
    local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, output = tmp_path / "empty", tmp_path / "tokens"
    empty.mkdir()
    assert main(["tokenize", "--input-dir", str(empty), "--output-dir", str(output)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"snac-bulk: error: no recordings under {empty}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("wrong", ["0", "-1", "two"])
def test_command_refuses_a_number_of_actors_that_is_none(wrong: str) -> None:
    options = ["--input-dir", ".", "--output-dir", ".", "--num-actors", wrong]
    with pytest.raises(SystemExit) as stop:
        main(["tokenize", *options])
    assert stop.value.code == 2


def test_one_folder_holds_one_token_space(
    tokenized: tuple[Path, Summary], corpus: Path, codec: Codec, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(TokenSpaceError, match=codec.token_space):
        tokenize_corpus(corpus, tokenized[0], str(other))


def tokenizer(corpus: Path, output: Path, model: Path, token_space: str) -> Tokenizer:
    return Tokenizer(corpus, output, str(model), "cpu", token_space)


def test_a_model_exchanged_under_a_run_is_noticed(model: Path, corpus: Path) -> None:
    with pytest.raises(TokenSpaceError, match="began with 0123456789ab"):
        tokenizer(corpus, corpus, model, "0123456789ab")


def test_codes_do_not_depend_on_how_much_is_encoded_at_once(
    model: Path, corpus: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = tokenizer(corpus, corpus, model, codec.token_space)
    paths = ["missing.wav", *RECORDINGS, "broken.wav"]
    together = actor.tokenize(paths)
    assert together["path"].to_pylist() == paths
    assert together["error"].null_count == len(RECORDINGS)
    monkeypatch.setattr(bulk.tokenize, "SECONDS_PER_CALL", 0.1)
    assert actor.tokenize(paths).equals(together)


def test_a_block_tried_again_replaces_its_shard(
    model: Path, corpus: Path, codec: Codec, tmp_path: Path
) -> None:
    actor = tokenizer(corpus, tmp_path, model, codec.token_space)
    block = {"path": np.array(["a/short.wav", "broken.wav"], dtype=object)}
    summaries = [actor(block), actor(block)]
    expected = {"tokenized": [1], "failed": [1], "seconds": [700 / 24000]}
    assert summaries == [expected, expected]
    assert len(list(tmp_path.iterdir())) == 1
    assert paths_done(tmp_path, codec.token_space) == {"a/short.wav", "broken.wav"}


def test_a_parquet_file_of_somebody_else_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["hello"]}), tmp_path / "other.parquet")
    with pytest.raises(SnacError, match=r"other\.parquet is not a shard"):
        paths_done(tmp_path, "abc")


def test_recordings_are_found_in_all_folders_in_order(corpus: Path) -> None:
    assert find_recordings(corpus) == sorted([*RECORDINGS, "broken.wav"])


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnacError, match="nowhere is not a folder"):
        find_recordings(tmp_path / "nowhere")
