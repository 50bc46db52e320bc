"""What a corpus of any size takes: time, cost, and what is the bottleneck, from measured rates.

    python bench/scale.py
    python bench/scale.py --encode 2500 --gpus 8 64 512 --gpu-hour 2.5 --rates my-machine.json

A run is a pipeline, so it goes as fast as its slowest stage. Each stage has a rate for one unit
(a GPU, a core, a node's network, a store) and a number of units that follows from the number of
GPUs. The rates of a core are those that ``bench/corpus_rates.py`` measured. Figures of a GPU, a
network, a store and a price are assumptions, and printed as such.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from bulk.encode import CLIPS_PER_SHARD, GPU_BATCH_SECONDS
from bulk.plan import MOST_GROUP_SECONDS

SECONDS_PER_HOUR = 3600
MEASURED = Path(__file__).with_name("results") / "corpora.json"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus: its clips, their mean length, their format, and clips in one request.

    ``format`` is a key of what was measured, and ``bytes_per_second`` what it takes.
    """

    name: str
    clips: float
    seconds: float
    format: str
    bytes_per_second: float
    packed: float = 1.0

    @property
    def hours(self) -> float:
        """Audio in all."""
        return self.clips * self.seconds / SECONDS_PER_HOUR


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds of a core, as measured."""

    clip: dict[str, float]
    """To open a clip, by format."""
    second: dict[str, float]
    """To decode and resample one second of audio, by format."""
    shard: float
    batch: float
    """Of the process that hands batches out."""
    bytes_per_second: float
    encode: float
    """Audio-seconds a second that a core encodes."""

    @classmethod
    def read(cls, path: Path) -> Measured:
        """Read what ``bench/corpus_rates.py`` kept."""
        found = json.loads(path.read_text())
        reading = found["reading"]
        return cls(
            {name: one["clip"] for name, one in reading.items()},
            {name: one["second"] for name, one in reading.items()},
            found["writing"]["shard"],
            found["driving"],
            found["writing"]["bytes"],
            found["encode"],
        )


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What one unit does; see the options of the command for each."""

    encode: float
    cores_per_gpu: int
    gpus_per_node: int
    node_bytes: float
    store_bytes: float
    store_requests: float
    gpu_hour: float


CORPORA = (
    Corpus("2.8 million utterances of 4 s (WAV, 24 kHz)", 2.8e6, 4.0, "WAV", 48_000),
    Corpus("2.8 million utterances of 4 s (Opus in Parquet)", 2.8e6, 4.0, "Opus", 4_000, 64.0),
    Corpus("1 million hours of 15 s (FLAC)", 2.4e8, 15.0, "FLAC", 30_000),
    Corpus("1 million hours of 15 s (FLAC in Parquet)", 2.4e8, 15.0, "FLAC", 30_000, 16.0),
    Corpus("1 million hours of 15 s (Opus in Parquet)", 2.4e8, 15.0, "Opus", 4_000, 16.0),
)


def stages(corpus: Corpus, measured: Measured, assumed: Assumed, gpus: int) -> dict[str, float]:
    """Return how many audio-seconds a second each stage does at most."""
    # A core of each GPU's is its codec's own.
    cores = gpus * (assumed.cores_per_gpu - 1)
    nodes = -(-gpus // assumed.gpus_per_node)
    kind = corpus.format
    clips = min(CLIPS_PER_SHARD, max(1.0, MOST_GROUP_SECONDS / corpus.seconds))
    reading = measured.second[kind] + measured.clip[kind] / corpus.seconds
    writing = measured.shard / CLIPS_PER_SHARD / corpus.seconds
    shard = clips * corpus.seconds
    batches = -(-shard // GPU_BATCH_SECONDS)
    return {
        "GPU": gpus * assumed.encode,
        "cores": cores / (reading + writing),
        "network of nodes": nodes * assumed.node_bytes / corpus.bytes_per_second,
        "storage, bytes": assumed.store_bytes / corpus.bytes_per_second,
        "storage, requests": assumed.store_requests * corpus.packed * corpus.seconds,
        "driver": shard / (batches * measured.batch),
    }


def plan(corpus: Corpus, measured: Measured, assumed: Assumed, gpus: int) -> str:
    """Return a row of the table."""
    speeds = stages(corpus, measured, assumed, gpus)
    slowest = min(speeds, key=speeds.__getitem__)
    hours = corpus.hours / speeds[slowest]
    cost = hours * gpus * assumed.gpu_hour
    use = speeds[slowest] / speeds["GPU"]
    return (
        f"| {gpus} | {_time(hours)} | {cost:,.0f} | {1000 * cost / corpus.hours:.2f} | "
        f"{use:.0%} | {slowest} |"
    )


def saturation(corpus: Corpus, measured: Measured, assumed: Assumed) -> list[str]:
    """Return from how many GPUs on each shared stage is the slowest."""
    one = stages(corpus, measured, assumed, 1)
    own = min(one["GPU"], one["cores"])
    return [
        f"- {name}: from {one[name] / own:,.0f} GPUs on"
        for name in ("storage, bytes", "storage, requests", "driver")
    ]


def _time(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--rates", type=Path, default=MEASURED, help="measured by bench/corpus_rates.py")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    add("--encode", type=float, default=2000.0, help="x real time of one GPU")
    add("--cores-per-gpu", type=int, default=16)
    add("--gpus-per-node", type=int, default=8)
    add("--node-bytes", type=float, default=3e9, help="a second, of a node's network")
    add("--store-bytes", type=float, default=50e9, help="a second, of the object store")
    add("--store-requests", type=float, default=5500.0, help="a second, of one prefix")
    add("--gpu-hour", type=float, default=2.5, help="price of a GPU with its share of the node")
    arguments = vars(parser.parse_args())
    gpus, measured = arguments.pop("gpus"), Measured.read(arguments.pop("rates"))
    assumed = Assumed(**arguments)
    print("Assumed: " + " ".join(f"{name}={value:g}" for name, value in arguments.items()))
    print(
        "Measured, seconds of a core: "
        + ", ".join(
            f"{name} {1000 * measured.clip[name]:.2f} ms a clip and {1000 * second:.2f} ms a second"
            for name, second in measured.second.items()
        )
        + f"; {measured.shard:.2f} s a shard; {1000 * measured.batch:.1f} ms a batch handed out; "
        f"encoding {1000 / measured.encode:.1f} ms a second; rows {measured.bytes_per_second:.0f} "
        "bytes a second"
    )
    for corpus in CORPORA:
        size = corpus.hours * SECONDS_PER_HOUR * measured.bytes_per_second / 1e9
        audio = corpus.hours * SECONDS_PER_HOUR * corpus.bytes_per_second / 1e12
        print(f"\n{corpus.name}: {corpus.hours:,.0f} h, {audio:,.2f} TB in, {size:,.1f} GB out\n")
        print("| GPUs | time | cost | cost of 1,000 h | GPU busy | slowest |")
        print("|---|---|---|---|---|---|")
        for count in gpus:
            print(plan(corpus, measured, assumed, count))
        print()
        print("\n".join(saturation(corpus, measured, assumed)))


if __name__ == "__main__":
    main()
