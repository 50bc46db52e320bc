"""Ray: connected to or started without its chatter, and what a cluster has room for."""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple

# Before Ray is imported: it reports usage over the network unless told not to, warns of a change
# to come, and makes a log of every worker's repeated lines.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_enable_open_telemetry", "0")

import ray

from bulk.errors import BulkError

CODEC_CPUS = 0.8
READER_CPUS = 0.1
"""Parts of a core, as Ray counts them: each core has room for a codec and two readers. They share
it as the operating system gives it out: readers, which are more and wait where codecs are behind,
take what decoding needs, from a fiftieth of the codec's time for WAV to two thirds for Opus."""
READERS_PER_GPU = 8


class Resources(NamedTuple):
    """What a process of each kind asks of a node."""

    codec: dict[str, Any]
    reader: dict[str, Any]


def connect(address: str | None, **options: Any) -> None:
    """Connect to the cluster at ``address``, or start one on this machine.

    Does nothing in a process that is connected. ``RAY_ADDRESS`` is an address, too.

    Raises
    ------
    BulkError
        When there is no cluster at the address.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is None:
        options = {"include_dashboard": False, **options}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BulkError(f"no Ray cluster at {address or 'this machine'}: {error}") from error


def resources(device: str) -> Resources:
    """Return what codecs on ``device`` and their readers ask for."""
    if device.startswith("cuda"):
        return Resources({"num_cpus": 1, "num_gpus": 1}, {"num_cpus": 1})
    return Resources({"num_cpus": CODEC_CPUS}, {"num_cpus": READER_CPUS})


def room(device: str) -> int:
    """Return how many codecs the cluster has room for now: one a GPU, or one a core."""
    total = ray.cluster_resources()
    return max(1, int(total.get("GPU" if device.startswith("cuda") else "CPU", 0)))


def readers(codecs: int, device: str) -> int:
    """Return how many groups to read at once for so many codecs."""
    if device.startswith("cuda"):
        return max(
            2, min(int(ray.cluster_resources().get("CPU", 2)) - codecs, READERS_PER_GPU * codecs)
        )
    return codecs + 1
