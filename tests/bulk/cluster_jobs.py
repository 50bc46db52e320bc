"""Jobs on clusters of several nodes: ``make clusters`` runs them, as they take minutes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray.cluster_utils import Cluster

from bulk import cluster
from bulk.encode import EncodeOptions, encode
from bulk.progress import Summary
from tests.bulk.conftest import Encode, record
from tests.bulk.test_encode import kill_and_finish, rows

CLIPS = 48


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for number in range(CLIPS):
        record(folder, f"{number:03d}.wav", 16000, 1, 9000 + number)
    return folder


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A cluster of a head that has no room for codecs, and one node."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20},
    )
    made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    cluster.connect(made.address)
    yield made
    ray.shutdown()
    made.shutdown()


def run(
    corpus: Path, output: Path, model: Path, when: Callable[[Summary], None] = lambda one: None
) -> Summary:
    options = EncodeOptions([str(corpus)], str(output), str(model), clips_per_shard=4)
    began = time.monotonic()
    summary = encode(options, report=when)
    print(f"{summary.done} clips, {summary.failed} failed, {time.monotonic() - began:.0f} s")
    return summary


def test_two_nodes_give_the_rows_of_one_process_and_a_lost_node_loses_nothing(
    nodes: Cluster, corpus: Path, model: Path, tmp_path: Path, encode_here: Encode
) -> None:
    second = nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    expected = {row["id"]: row for row in encode_here(corpus)[0].to_pylist()}
    lost: list[int] = []

    def lose(summary: Summary) -> None:
        # In the middle, and on a thread of its own: the job is not to wait for it.
        if summary.done >= CLIPS // 4 and not lost:
            lost.append(summary.done)
            print(f"node lost after {summary.done} clips")
            threading.Thread(target=nodes.remove_node, args=(second,)).start()

    assert run(corpus, tmp_path / "two", model).done == CLIPS
    assert rows(tmp_path / "two") == expected
    assert run(corpus, tmp_path / "lost", model, lose).done == CLIPS
    assert lost
    assert rows(tmp_path / "lost") == expected


def test_a_node_that_joins_helps(
    nodes: Cluster, corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bulk.pipeline import Pipeline

    most: list[int] = []
    step: Any = Pipeline._step

    def watched(self: Pipeline) -> Any:
        most.append(self.codecs)
        return step(self)

    monkeypatch.setattr(Pipeline, "_step", watched)
    joined: list[bool] = []

    def join(summary: Summary) -> None:
        if not joined:
            joined.append(True)
            nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)

    for number in range(400):
        record(corpus, f"more/{number:03d}.wav", 16000, 1, 20000 + number)
    summary = run(corpus, tmp_path / "out", model, join)
    assert summary.done == CLIPS + 400
    print(f"codecs at work: {sorted(set(most))}")
    assert max(most) == 2


def test_a_good_run_says_nothing_and_its_metrics_are_among_those_of_ray(
    nodes: Cluster, corpus: Path, model: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "bulk.cli", "encode", str(corpus), "--model", str(model)]
    command += ["--output", str(tmp_path / "said"), "--address", nodes.address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"encoded {CLIPS} clips")

    run(corpus, tmp_path / "counted", model)
    sample = re.compile(
        r'^ray_snac_bulk_clips(?:_total)?\{.*status="done".*\} (\S+)$', re.MULTILINE
    )
    until = time.monotonic() + 60
    counts: list[str] = []
    while not counts and time.monotonic() < until:
        time.sleep(1)
        for node in ray.nodes():
            place = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            counts += sample.findall(httpx.get(place).text) if node["Alive"] else []
    print(f"metrics of Ray: snac_bulk_clips, status done: {counts}")
    assert float(counts[0]) == CLIPS


def test_killed_five_times_every_clip_is_there_once(model: Path, tmp_path: Path) -> None:
    kill_and_finish(model, tmp_path, kills=5)
