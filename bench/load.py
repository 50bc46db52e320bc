"""Load up to twice what the service can sustain, and past it: what is answered and what refused.

    python bench/load.py [--model starter] [--seconds 20] [--wait 2] [--clock cpu]

Locust posts clips of 1-8 s to `snac-service` as eight callers. First as much as the service takes
of each kind of work, which are the peaks. Then, with a queue of ``--wait`` seconds of encoding: a
steady rate; a ramp to twice the peak, and back; a burst, whose callers come back when
`Retry-After` says; and such a ramp of encoding, decoding and streams. The ramp of encoding is
compared with the higher of two peaks, taken right before and after it, and clients beside slow
readers with a peak right before, since machines are not always as fast. The ramp has recovered
once answers take no longer than at the first of its peaks. Of the mixture, throughput is the sum of
the kinds' parts of their peaks. The table says how many cores other processes had, Locust's not
among them. Exit code 1 says that a bar is missed.
"""

from __future__ import annotations

# First of all: gevent, on which Locust runs, replaces what opens sockets.
from load_users import (
    PERIOD,
    Answer,
    Busy,
    BusyDecoding,
    BusyStreaming,
    Caller,
    Clip,
    Paced,
    PacedMixing,
    Returning,
    SlowReader,
    Work,
)

# isort: split
import argparse
import contextlib
import logging
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import gevent
import httpx
import numpy as np
import psutil
from fairness import queued
from locust import User
from locust.env import Environment
from locust.runners import LocalRunner
from machine import describe
from measuring import clips
from running import Server, service

from snac_core.audio import encode_bytes
from snac_core.config import SnacConfig
from snac_core.store.checkpoint import read

KEYS = tuple(f"caller-{number}" for number in range(8))
CLIENTS = 8
"""That send as fast as they are answered, to find a peak."""
SLOW_READERS = 32
BURST = 4.0
"""Audio in a burst, in queues."""
STEADY, PAST, AFTER = 0.8, 2.0, 0.5
"""Offered rates, in peaks."""
LEAST_THROUGHPUT, LONGEST_RECOVERY = 0.9, 5.0


class Peak(NamedTuple):
    """Audio-seconds per second of one kind of work, at most, and the cores that it took."""

    rate: float
    cores: float


Peaks = Mapping[str, Peak]


class Stretch:
    """What ended in a stretch of time, in figures.

    Parameters
    ----------
    answers
        What ended.
    seconds
        How long it was.
    cores
        CPU-seconds of the service in each of them.
    others
        The same of what is neither the service nor Locust.
    """

    def __init__(
        self, answers: list[Answer], seconds: float, cores: float, others: float = 0.0
    ) -> None:
        self.answers, self.seconds, self.cores, self.others = answers, seconds, cores, others
        self.statuses = Counter(one.status for one in answers)

    def rate(self, kind: str, *statuses: int) -> float:
        """Return the audio-seconds per second of what got one of these statuses."""
        asked = (one for one in self.answers if one.kind == kind and one.status in statuses)
        return sum(one.audio for one in asked) / self.seconds

    def part(self, peaks: Peaks, *statuses: int) -> float:
        """Return the same of all kinds, in peaks."""
        return sum(self.rate(kind, *statuses) / peak.rate for kind, peak in peaks.items())

    def part_per_core(self, peaks: Peaks) -> float:
        """Return what was answered for a CPU-second, in what a peak has for one."""
        rates = (self.rate(kind, 200) / peak.rate * peak.cores for kind, peak in peaks.items())
        return sum(rates) / self.cores

    def waits(self, kind: str) -> list[float]:
        """Return the median, the 99th percentile and the most of the seconds until an answer."""
        done = [one.took for one in self.answers if one.kind == kind and one.status == 200]
        found: list[float] = np.percentile(done or [np.nan], [50, 99, 100]).tolist()
        return found

    @property
    def lost(self) -> int:
        """Answers that are neither 200 nor 429."""
        return len(self.answers) - self.statuses[200] - self.statuses[429]

    def rows(self, name: str, peaks: Peaks) -> list[str]:
        """Return lines of the table, one for each kind of work."""
        refused = 100 * self.statuses[429] / max(1, len(self.answers))
        cells = [
            name,
            f"{self.part(peaks, 200, 429):.2f}",
            f"{100 * self.part(peaks, 200):.0f} %",
            f"{100 * self.part_per_core(peaks):.0f} %",
            f"{refused:.0f} %",
            str(self.lost),
            f"{self.cores:.1f}",
            f"{self.others:.1f}",
        ]
        lines = []
        for kind in sorted({one.kind for one in self.answers}):
            p50, p99, most = self.waits(kind)
            waits = [f"{self.rate(kind, 200):.1f}", f"{p50:.2f}", f"{p99:.2f}", f"{most:.2f}"]
            lines.append(f"| {' | '.join([*cells, kind, *waits])} |")
            cells = [""] * len(cells)
        return lines


HEAD = (
    "| | offered, in peaks | answered, of the peak | the same per core | 429 | lost | cores | "
    "others' cores | | audio-s/s | p50, s | p99, s | most, s |\n" + 13 * "|---" + "|"
)


def show(name: str, stretch: Stretch, peaks: Peaks) -> None:
    """Print a stretch's lines of the table."""
    print("\n".join(stretch.rows(name, peaks)), flush=True)


def work_of(server: Server, config: SnacConfig) -> Work:
    """Return the clips, with the codes that the service makes of them."""
    made, rate = [], config.sampling_rate
    headers = {"X-Api-Key": KEYS[0]}
    with httpx.Client(base_url=server.url, headers=headers, timeout=300) as http:
        for wave in clips(15, 1.0, 8.0):
            wav = encode_bytes(wave, rate)
            made.append(Clip(len(wave) / rate, wav, http.post("/v1/encode", content=wav).content))
    return Work(server.url, server.pid, KEYS, config, made)


@contextlib.contextmanager
def users(
    kind: type[Caller | SlowReader], work: Work, count: int, over: float = 0.0
) -> Iterator[LocalRunner]:
    """Run so many users while the block runs; they come spread over so many seconds."""
    kind.work = work
    classes: list[type[User]] = [kind]
    # Callers are answered to the end; slow readers are cut off.
    patience = 120 if issubclass(kind, Caller) else 0
    environment = Environment(user_classes=classes, host=work.url, stop_timeout=patience)
    runner = environment.create_local_runner()
    runner.start(count, spawn_rate=count / over if over else 1000.0)
    try:
        yield runner
    finally:
        runner.quit()


def during(work: Work, seconds: float) -> Stretch:
    """Let users go on for so long; return what ended meanwhile."""
    first, before = time.monotonic(), _cpu_seconds(work.pid)
    gevent.sleep(seconds)
    last, after = time.monotonic(), _cpu_seconds(work.pid)
    machine, own, locust = ((y - x) / (last - first) for x, y in zip(before, after, strict=True))
    answers = [one for one in work.answers if first <= one.ended < last]
    return Stretch(answers, last - first, own, max(0.0, machine - own - locust))


def _cpu_seconds(pid: int) -> tuple[float, float, float]:
    """Return CPU-seconds so far: of the machine, of the service and of this process."""
    machine = psutil.cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    processes = (psutil.Process(one).cpu_times() for one in (pid, None))
    return sum(machine) - idle, *(one.user + one.system for one in processes)


def hold(kind: type[Caller], work: Work, count: int, seconds: float, over: float = 2.0) -> Stretch:
    """Run users, and return what was answered once all of them have begun."""
    with users(kind, work, count, over):
        gevent.sleep(over + 1.0)
        return during(work, seconds)


def ramp(
    kind: type[Caller], work: Work, rate: float, seconds: float, usual: float
) -> tuple[Stretch, float]:
    """Go from `AFTER` to `PAST` times ``rate`` requests per second, stay, and go back.

    Returns what ended while all were there, and the seconds after which requests that began were
    all answered, and within what they took at the same rate before, or ``usual`` seconds if that
    is more.
    """
    few, most = (round(share * rate * PERIOD) for share in (AFTER, PAST))
    with users(kind, work, few, PERIOD) as runner:
        gevent.sleep(PERIOD)
        usual = max([usual, *(one.took for one in during(work, PERIOD).answers)])
        runner.start(most, spawn_rate=(most - few) / PERIOD)
        gevent.sleep(PERIOD)
        past = during(work, seconds)
        runner.start(few, spawn_rate=1000.0)
        back = time.monotonic()
        gevent.sleep(PERIOD + usual)
        end = time.monotonic() - usual
    late = [
        one.began - back
        for one in work.answers
        if back <= one.began < end and (one.status != 200 or one.took > usual)
    ]
    return past, max(late, default=0.0)


def peak_of(stretch: Stretch, kind: str = "encode") -> dict[str, Peak]:
    """Return what was reached as the peak of a kind of work."""
    return {kind: Peak(stretch.rate(kind, 200), stretch.cores)}


def burst(work: Work, limit: float) -> tuple[str, float]:
    """Post `BURST` queues of clips at once; return what to say, and how long the engine had work.

    The latter is a part of the time until all are answered.
    """
    count = round(BURST * limit / statistics.mean(clip.seconds for clip in work.clips))
    seen, began, looks = len(work.answers), time.monotonic(), [0, 0]
    with users(Returning, work, count), httpx.Client(base_url=work.url) as http:
        while sum(one.status == 200 for one in work.answers[seen:]) < count:
            gevent.sleep(0.05)
            looks[queued(http) > 0] += 1
    answers = work.answers[seen:]
    waits = [one.retry_after for one in answers if one.status == 429]
    busy = looks[True] / sum(looks)
    return (
        f"burst of {count} clips, {BURST:g} times the queue: all answered after "
        f"{max(one.ended for one in answers) - began:.1f} s, in {100 * busy:.0f} % of which the "
        f"engine had work; {len(waits)} times 429, with Retry-After from {min(waits):.0f} to "
        f"{max(waits):.0f} s; {len(answers) / count:.1f} tries for a clip"
    ), busy


def beside_slow_readers(work: Work, seconds: float) -> Stretch:
    """Encode as fast as it goes beside clients that take their answers slowly."""
    headers = {"X-Api-Key": KEYS[0]}
    with (
        users(SlowReader, work, SLOW_READERS, 1.0),
        httpx.Client(base_url=work.url, headers=headers) as http,
    ):
        while work.reading < SLOW_READERS or queued(http) > 0:
            gevent.sleep(0.2)
        return hold(Busy, work, CLIENTS, seconds)


def main() -> int:
    """Print Markdown; 0 if the bars are held."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stretch")
    parser.add_argument("--wait", type=float, default=2.0, help="what the queue holds, in seconds")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: judge throughput per CPU-second of the service, on a machine that is shared",
    )
    options = parser.parse_args()
    logging.getLogger("locust").setLevel(logging.ERROR)
    seconds, config = options.seconds, read(options.model).config
    keys = ",".join(KEYS)
    print(f"{describe()}; model {options.model}; clips of 1-8 s, {len(KEYS)} callers\n")
    print(HEAD)
    with service("--model", options.model, SNAC_API_KEYS=keys) as server:
        peaks: dict[str, Peak] = {}
        work = work_of(server, config)
        for user in (Busy, BusyDecoding, BusyStreaming):
            found = hold(user, work, CLIENTS, seconds)
            peaks |= (own := peak_of(found, *user.kinds))
            show(f"{CLIENTS} clients", found, own)
        alone = peak_of(hold(Busy, work, CLIENTS, seconds))
        slow = beside_slow_readers(work, seconds)
        show(f"{CLIENTS} clients beside {SLOW_READERS} slow readers", slow, alone)
    peak, mean = peaks["encode"].rate, statistics.mean(clip.seconds for clip in work.clips)
    limit = round(options.wait * peak)
    bounds = {"SNAC_API_KEYS": keys, "SNAC_MAX_QUEUE_SECONDS": str(limit)}
    with service("--model", options.model, quiet=False, **bounds) as server:
        work = work_of(server, config)
        steady = hold(Paced, work, round(STEADY * peak / mean * PERIOD), seconds, PERIOD)
        show(f"steady, {STEADY:g} of the peak", steady, peaks)
        around = [hold(Busy, work, CLIENTS, seconds)]
        past, recovered = ramp(Paced, work, peak / mean, seconds, around[0].waits("encode")[2])
        around.append(hold(Busy, work, CLIENTS, seconds))
        near = peak_of(max(around, key=lambda one: one.rate("encode", 200)))
        show(f"{CLIENTS} clients, before the ramp", around[0], near)
        show(f"ramp, at {PAST:g} times the peak", past, near)
        show(f"{CLIENTS} clients, after the ramp", around[1], near)
        said, busy = burst(work, limit)
        cost = statistics.mean(mean / peaks[kind].rate for kind in PacedMixing.kinds)
        mixed, _ = ramp(PacedMixing, work, 1 / cost, seconds, 0.0)
        show(f"mixture, at {PAST:g} times its peak", mixed, peaks)
        alive = httpx.get(f"{server.url}/health/ready").is_success
    print(f"\n- from 'steady' on SNAC_MAX_QUEUE_SECONDS={limit}, {options.wait:g} s of encoding")
    print(f"- {said}")
    print(f"- from {PAST:g} to {AFTER:g} of the peak: as fast as at a peak after {recovered:.1f} s")

    def enough(stretch: Stretch, peaks: Peaks = peaks) -> bool:
        wall = options.clock == "wall"
        part = stretch.part(peaks, 200) if wall else stretch.part_per_core(peaks)
        return part >= LEAST_THROUGHPUT

    bars = {
        "throughput past the limit": enough(past, near),
        "throughput of the mixture": enough(mixed),
        "throughput beside slow readers": enough(slow, alone),
        "the engine had work during the burst": busy >= LEAST_THROUGHPUT,
        "recovery": recovered <= LONGEST_RECOVERY,
        "nothing lost": not any(one.lost for one in (slow, steady, past, mixed)),
        "ready afterwards": alive,
    }
    missed = [name for name, held in bars.items() if not held]
    print(f"- bars missed: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
