"""What a corpus of any size takes: time, cost, and what is the bottleneck, from measured rates.

    python bench/scale.py
    python bench/scale.py --encode 2500 --gpus 8 64 512 --gpu-hour 2.5

A run is a pipeline, so it goes as fast as its slowest stage. Each stage has a rate for one unit
(a GPU, a core, a node's network, a store) and a number of units that follows from the number of
GPUs. Figures of a GPU, a network and a store are assumptions, and printed as such; those of a
core come from ``bench/corpora.py`` and ``bench/cpu.py``.
"""

from __future__ import annotations

import argparse
import dataclasses

SECONDS_PER_HOUR = 3600


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus: its clips, their mean length, what a second takes, and clips in one request."""

    name: str
    clips: float
    seconds: float
    bytes_per_second: float
    packed: float = 1.0

    @property
    def hours(self) -> float:
        """Audio in all."""
        return self.clips * self.seconds / SECONDS_PER_HOUR


@dataclasses.dataclass(frozen=True)
class Rates:
    """What one unit does; see the options of the command for each."""

    encode: float
    decode: float
    per_clip: float
    cores_per_gpu: int
    gpus_per_node: int
    node_bytes: float
    store_bytes: float
    store_requests: float
    shard_seconds: float
    driver_shards: float
    tokens_bytes: float
    gpu_hour: float


CORPORA = (
    Corpus("2.8 million utterances of 4 s (WAV, 24 kHz)", 2.8e6, 4.0, 48_000),
    Corpus("1 million hours of 15 s (FLAC)", 2.4e8, 15.0, 30_000),
    Corpus("1 million hours of 15 s (FLAC in Parquet)", 2.4e8, 15.0, 30_000, packed=16.0),
    Corpus("1 million hours of 15 s (Opus in Parquet)", 2.4e8, 15.0, 4_000, packed=16.0),
)


def stages(corpus: Corpus, rates: Rates, gpus: int) -> dict[str, float]:
    """Return how many audio-seconds a second each stage does at most."""
    cores = gpus * rates.cores_per_gpu
    nodes = -(-gpus // rates.gpus_per_node)
    # A core decodes at its rate, less what opening each clip takes.
    per_core = 1 / (1 / rates.decode + rates.per_clip / corpus.seconds)
    clips_per_shard = min(1024.0, max(1.0, 7200.0 / corpus.seconds))
    return {
        "GPU": gpus * rates.encode,
        "decoding of audio": cores * per_core,
        "network of nodes": nodes * rates.node_bytes / corpus.bytes_per_second,
        "storage, bytes": rates.store_bytes / corpus.bytes_per_second,
        "storage, requests": rates.store_requests * corpus.packed * corpus.seconds,
        "Parquet": cores * clips_per_shard * corpus.seconds / rates.shard_seconds,
        "driver": rates.driver_shards * clips_per_shard * corpus.seconds,
    }


def plan(corpus: Corpus, rates: Rates, gpus: int) -> str:
    """Return a row of the table."""
    speeds = stages(corpus, rates, gpus)
    slowest = min(speeds, key=speeds.__getitem__)
    hours = corpus.hours / speeds[slowest]
    cost = hours * gpus * rates.gpu_hour
    use = speeds[slowest] / speeds["GPU"]
    return (
        f"| {gpus} | {_time(hours)} | {cost:,.0f} | {1000 * cost / corpus.hours:.2f} | "
        f"{use:.0%} | {slowest} |"
    )


def saturation(corpus: Corpus, rates: Rates) -> list[str]:
    """Return from how many GPUs on each shared stage is the slowest."""
    lines = []
    for name in ("storage, bytes", "storage, requests", "driver"):
        gpus = stages(corpus, rates, 1)[name] / min(
            rates.encode, stages(corpus, rates, 1)["decoding of audio"]
        )
        lines.append(f"- {name}: from {gpus:,.0f} GPUs on")
    return lines


def _time(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    add("--encode", type=float, default=2000.0, help="x real time of one GPU")
    add("--decode", type=float, default=400.0, help="x real time: decode, resample on one core")
    add("--per-clip", type=float, default=0.001, help="seconds of a core to open a clip")
    add("--cores-per-gpu", type=int, default=8)
    add("--gpus-per-node", type=int, default=8)
    add("--node-bytes", type=float, default=3e9, help="a second, of a node's network")
    add("--store-bytes", type=float, default=50e9, help="a second, of the object store")
    add("--store-requests", type=float, default=5500.0, help="a second, of one prefix")
    add("--shard-seconds", type=float, default=0.3, help="of a core to write a shard")
    add("--driver-shards", type=float, default=50.0, help="a second")
    add("--tokens-bytes", type=float, default=120.0, help="of Parquet, for a second of audio")
    add("--gpu-hour", type=float, default=2.5, help="price of a GPU with its share of the node")
    arguments = vars(parser.parse_args())
    gpus = arguments.pop("gpus")
    rates = Rates(**arguments)
    print(" ".join(f"{name}={value:g}" for name, value in arguments.items()))
    for corpus in CORPORA:
        size = corpus.hours * SECONDS_PER_HOUR * rates.tokens_bytes / 1e9
        audio = corpus.hours * SECONDS_PER_HOUR * corpus.bytes_per_second / 1e12
        print(f"\n{corpus.name}: {corpus.hours:,.0f} h, {audio:,.1f} TB in, {size:,.1f} GB out\n")
        print("| GPUs | time | cost | cost of 1,000 h | GPU busy | slowest |")
        print("|---|---|---|---|---|---|")
        for count in gpus:
            print(plan(corpus, rates, count))
        print()
        print("\n".join(saturation(corpus, rates)))


if __name__ == "__main__":
    main()
