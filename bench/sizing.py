"""What the service does with so many cores: audio, clients, streams and memory.

    python bench/sizing.py [--model starter] [--cores 1 2] [--clients 1 8 32] [--seconds 6]

Starts `snac-service` on each number of cores, with Locust on the same machine. So many clients
encode clips of 1-8 s, one after the other, then decode, then decode streams as fast as they are
taken. A stream in real time takes one second of audio a second, so the audio-seconds a second of
streams are the number of streams that can be listened to at once. Figures per CPU-second are of
the service's own time: they hold on a machine that others share. Memory is what the process had
at most so far.
"""

from __future__ import annotations

# First of all: gevent, on which Locust runs, replaces what opens sockets.
from load_users import Busy, BusyDecoding, BusyStreaming

# isort: split
import argparse
import logging
import os
import re
from pathlib import Path

from load import KEYS, hold, work_of
from machine import describe
from running import service

from snac_core.store.checkpoint import read

HEAD = (
    "| cores | clients | | audio-s/s | per CPU-second | p50, s | p99, s | cores used | "
    "others' cores | MiB at most |\n" + 10 * "|---" + "|"
)


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def measure(model: str, cores: int, clients: list[int], seconds: float) -> None:
    """Print the rows of a service on so many cores."""
    every, config = os.sched_getaffinity(0), read(model).config
    os.sched_setaffinity(0, sorted(every)[:cores])
    with service("--model", model, SNAC_API_KEYS=",".join(KEYS), SNAC_CALLER_SHARE="1") as server:
        os.sched_setaffinity(0, every)
        print(f"| {cores} | 0 | started | | | | | | | {peak_mib(server.pid):.0f} |", flush=True)
        work = work_of(server, config)
        for kind in (Busy, BusyDecoding, BusyStreaming):
            for count in clients:
                found = hold(kind, work, count, seconds, 1.0)
                (name,) = kind.kinds
                p50, p99, _ = found.waits(name)
                rate = found.rate(name, 200)
                cells = [cores, count, name, f"{rate:.1f}", f"{rate / found.cores:.1f}"]
                cells += [f"{p50:.2f}", f"{p99:.2f}", f"{found.cores:.2f}", f"{found.others:.2f}"]
                cells.append(f"{peak_mib(server.pid):.0f}")
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="starter")
    most = len(os.sched_getaffinity(0))
    parser.add_argument("--cores", type=int, nargs="+", default=sorted({1, most}))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each row")
    options = parser.parse_args()
    if max(options.cores) > most:
        raise SystemExit(f"--cores {max(options.cores)}: this process may use {most}")
    logging.getLogger("locust").setLevel(logging.ERROR)
    print(f"{describe()}; model {options.model}; clips of 1-8 s\n\n{HEAD}")
    for cores in options.cores:
        measure(options.model, cores, options.clients, options.seconds)


if __name__ == "__main__":
    main()
