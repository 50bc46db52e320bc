from __future__ import annotations

import io
import json
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.layouts import to_layout
from tests.support.models import TINY, TINY_ATTENTION
from tests.trainer.pages import Page
from trainer.cli import main
from trainer.errors import TrainerError
from trainer.tokens import corpus as corpora
from trainer.tokens import report as tokens_report
from trainer.tokens.ngrams import FrequentNgrams
from trainer.tokens.statistics import run_lengths

Levels = list[npt.NDArray[np.int64]]


def speech(config: SnacConfig, frames: int, seed: int) -> Levels:
    """Return codes of which some are frequent, some repeat and most never come."""
    random = np.random.default_rng(seed)
    levels = []
    for count in config.codes_per_frame:
        codes = np.minimum(random.zipf(1.5, frames * count), 300)
        levels.append(np.where(random.random(len(codes)) < 0.3, 7, codes))
    return levels


def row(name: str, levels: Levels, space: str | None = "abc", **others: Any) -> dict[str, Any]:
    columns = {f"level_{place}": codes.tolist() for place, codes in enumerate(levels)}
    return {"path": name, "duration": 0.5, "token_space": space, "error": None} | columns | others


def shard(path: Path, rows: list[dict[str, Any]], levels: int = 3) -> None:
    """Write a shard with the columns that snac-bulk writes."""
    codes = [(f"level_{place}", pa.list_(pa.int16())) for place in range(levels)]
    texts = [(name, pa.string()) for name in ("path", "token_space", "error")]
    schema = pa.schema([("duration", pa.float64()), *codes, *texts])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


@pytest.fixture(scope="module")
def recordings() -> dict[str, Levels]:
    return {f"{seed}.wav": speech(TINY, 3 + 5 * seed, seed) for seed in range(6)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, recordings: dict[str, Levels]) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rows = [row(name, levels) for name, levels in recordings.items()]
    failed = {"path": "bad.wav", "token_space": "abc", "error": "Format not recognised."}
    shard(folder / "one.parquet", [*rows[:2], failed, *rows[2:4]])
    shard(folder / "deep" / "two.parquet", rows[4:])
    return folder


@pytest.fixture(scope="module")
def statistics(corpus: Path) -> dict[str, Any]:
    # Batches of two recordings, so that counts are put together.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "ROWS_AT_ONCE", 2)
        return tokens_report.measure(corpus)


def test_levels_are_counted(statistics: dict[str, Any], recordings: dict[str, Levels]) -> None:
    assert statistics["recordings"] == 6
    assert statistics["seconds"] == 3.0
    assert statistics["token_space"] == "abc"
    assert statistics["frames"] == sum(len(levels[0]) for levels in recordings.values())
    assert statistics["codes"] == 7 * statistics["frames"]
    for place, level in enumerate(statistics["levels"]):
        codes = [levels[place].tolist() for levels in recordings.values()]
        counts = Counter(code for one in codes for code in one)
        assert level["codes"] == counts.total()
        assert {code: n for code, n in enumerate(level["frequency"]) if n} == counts
        assert level["used"] == len(counts)
        assert level["dead"] == 4096 - len(counts) == len(level["dead_codes"])
        assert not set(level["dead_codes"]) & counts.keys()
        shares = np.array(list(counts.values())) / counts.total()
        assert level["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
        first = level["most_frequent"][0]
        assert (first["code"], first["count"]) == counts.most_common(1)[0]
        runs = Counter(len(list(same)) for one in codes for _, same in groupby(one))
        assert level["runs"]["by_length"] == {str(n): runs[n] for n in sorted(runs)}
        assert level["runs"]["longest"] == max(runs)
        assert level["runs"]["mean"] == pytest.approx(counts.total() / runs.total())


def ngrams(sequences: list[list[Any]], n: int) -> Counter[tuple[Any, ...]]:
    return Counter(
        tuple(one[start : start + n]) for one in sequences for start in range(len(one) - n + 1)
    )


def check_top(said: dict[str, Any], wanted: Counter[tuple[Any, ...]]) -> None:
    assert said["counts_may_be_low_by"] == 0
    assert said["total"] == wanted.total()
    assert said["kinds"] == len(wanted)
    assert [one["count"] for one in said["top"]] == [n for _, n in wanted.most_common(20)]
    for one in said["top"]:
        tokens = tuple(tuple(t) if isinstance(t, list) else t for t in one["tokens"])
        assert wanted[tokens] == one["count"]
        assert one["share"] == one["count"] / wanted.total()


@pytest.mark.parametrize("n", [2, 3])
def test_ngrams_lie_within_one_recording(
    statistics: dict[str, Any], recordings: dict[str, Levels], n: int
) -> None:
    for place, level in enumerate(statistics["levels"]):
        sequences = [levels[place].tolist() for levels in recordings.values()]
        check_top(level["ngrams"][str(n)], ngrams(sequences, n))
    marked = []
    for levels in recordings.values():
        offset = [codes + 512 * place for place, codes in enumerate(levels)]
        flat = to_layout(tuple(codes.astype(np.int32) for codes in offset), "flat", config=TINY)
        marked.append([divmod(token, 512) for token in flat])
    check_top(statistics["flat"]["ngrams"][str(n)], ngrams(marked, n))


def test_npz_codes_give_the_same(
    statistics: dict[str, Any], recordings: dict[str, Levels], tmp_path: Path
) -> None:
    for name, levels in recordings.items():
        codes = Codes(tuple(levels), 12000, 24000)  # type: ignore[arg-type]
        (tmp_path / f"{name}.npz").write_bytes(codes.to_npz())
    (tmp_path / "broken.npz").write_bytes(b"PK")
    found = tokens_report.measure(tmp_path)
    assert found["skipped"] == 1
    assert "not an npz file" in found["unusable"][0]["reason"]
    for key in ("recordings", "seconds", "levels", "flat"):
        assert found[key] == statistics[key]


def test_four_levels_are_read_too(tmp_path: Path) -> None:
    levels = speech(TINY_ATTENTION, 4, 0)
    shard(tmp_path / "one.parquet", [row("one.wav", levels)], levels=4)
    found = tokens_report.measure(tmp_path)
    assert [level["per_frame"] for level in found["levels"]] == [1, 2, 4, 8]
    assert found["flat"]["ngrams"]["2"]["total"] == 4 * 15 - 1


def test_what_does_not_fit_is_listed_and_left_out(tmp_path: Path) -> None:
    good = speech(TINY, 5, 0)
    beyond = [good[0], good[1], np.where(np.arange(20) == 3, 400, good[2])]
    negative = [good[0], np.where(np.arange(10) == 9, -1, good[1]), good[2]]
    none: Levels = [np.zeros(0, np.int64)] * 3
    rows = [
        row("good.wav", good),
        row("short.wav", [good[0], good[1][:-1], good[2]]),
        row("beyond.wav", beyond),
        row("empty.wav", none),
        row("negative.wav", negative),
        row("unread.wav", good, level_0=None, error="it is empty"),
        row("also good.wav", good),
    ]
    shard(tmp_path / "one.parquet", rows)
    found = tokens_report.measure(tmp_path, codebook_size=301)
    assert found["recordings"] == 2
    assert {one["path"]: one["reason"] for one in found["unusable"]} == {
        "short.wav": "level 1 holds 9 codes; 10 go with 5 of level 0",
        "beyond.wav": "level 2 holds code 400, outside 0..300",
        "empty.wav": "it has no codes",
        "negative.wav": "level 1 holds code -1, outside 0..300",
        "unread.wav": "it is empty",
    }
    assert sum(found["levels"][0]["frequency"]) == 10


def test_what_is_no_corpus_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"no \.parquet or \.npz"):
        tokens_report.measure(tmp_path)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"path": ["a"]}), other)
    with pytest.raises(TrainerError, match="has no columns level_0"):
        tokens_report.measure(tmp_path)
    other.write_bytes(b"no parquet")
    with pytest.raises(TrainerError, match="is not a shard of tokens"):
        tokens_report.measure(tmp_path)
    shard(other, [row("one.wav", [np.array([5000])] * 3)])
    with pytest.raises(TrainerError, match=r"none of the 1 recordings .* outside 0\.\.4095"):
        tokens_report.measure(tmp_path)
    shard(other, [row("one.wav", [np.arange(2), np.arange(4), np.arange(6)])])
    with pytest.raises(TrainerError, match=r"\[1, 2, 3\] codes .* do not nest"):
        tokens_report.measure(tmp_path)
    good = speech(TINY, 2, 0)
    shard(other, [row("one.wav", good, "abc"), row("two.wav", good, "xyz")])
    with pytest.raises(TrainerError, match="do not go together"):
        tokens_report.measure(tmp_path)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(0, 4), max_size=30), min_size=1, max_size=12))
def test_runs_are_those_of_each_sequence(sequences: list[list[int]]) -> None:
    sequences = [one for one in sequences if one] or [[0]]
    codes = np.array([code for one in sequences for code in one])
    lengths = np.array([len(one) for one in sequences])
    wanted = [len(list(same)) for one in sequences for _, same in groupby(one)]
    assert run_lengths(codes, lengths).tolist() == wanted


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=40), min_size=1, max_size=10),
    st.integers(1, 30),
    st.integers(1, 60),
)
def test_counts_keep_their_bound_in_little_memory(
    batches: list[list[int]], capacity: int, buffer: int
) -> None:
    grams = FrequentNgrams(2, 10, capacity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.tokens.ngrams.BUFFER", buffer)
        for batch in batches:
            grams.add(np.array(batch, np.int64), np.array([len(batch)]))
    wanted = ngrams(batches, 2)
    said = {one.tokens: one.times for one in grams.top(1000)}
    assert len(said) <= capacity
    assert grams.total == wanted.total()
    assert grams.missed * (capacity + 1) <= grams.total
    for tokens, count in wanted.items():
        assert count - grams.missed <= said.get(tokens, 0) <= count
    if grams.kinds is not None:
        assert said == wanted


def test_a_page_and_json_come_of_it(
    corpus: Path, statistics: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "reports" / "tokens"
    assert main(["tokens-report", str(corpus), "--output-dir", str(output)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(tokens_report.to_markdown(statistics))
    assert f"report: {output / 'tokens_report.html'}" in said
    assert json.loads((output / "tokens_report.json").read_text()) == statistics
    page = Page(output / "tokens_report.html")
    page.check_self_contained()
    pictures = [matplotlib.image.imread(io.BytesIO(data)) for data in page.data("image/png")]
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert sum(tag == "svg" for tag, _ in page.elements) == 4
    assert "bad.wav Format not recognised." in page.words
    for place, level in enumerate(statistics["levels"]):
        assert f"n-grams of level {place}" in page.words
        assert f"{level['perplexity']:.1f}" in page.words
    best = statistics["flat"]["ngrams"]["3"]["top"][0]
    assert " ".join(f"{level}:{code}" for level, code in best["tokens"]) in page.words


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tokens-report", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    assert main(command) == 1
    assert "no .parquet or .npz files" in capsys.readouterr().err
    assert main([*command, "--codebook-size", "0"]) == 1
    assert "must be above 0" in capsys.readouterr().err
