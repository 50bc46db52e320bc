"""Load up to twice what the service can sustain, and past it: what is answered and what refused.

    python bench/load.py [--model starter] [--seconds 20] [--wait 2]

Locust posts clips of 1-8 s to `snac-service` as eight callers. First as much as the service takes
of each kind of work, which are the peaks. Then, with a queue of ``--wait`` seconds of encoding: a
steady rate; a ramp to twice the peak, and back; a burst, whose callers come back when
`Retry-After` says; and such a ramp of encoding, decoding and streams. Of the mixture, throughput is
the sum of the kinds' parts of their peaks. Exit code 1 says that a bar is missed.
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

import gevent
import httpx
import numpy as np
from fairness import queued
from locust import User
from locust.env import Environment
from locust.runners import LocalRunner
from machine import describe
from measuring import clips
from running import service

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

Peaks = Mapping[str, float]
"""Audio-seconds per second of each kind of work, at most."""


class Stretch:
    """What ended in a stretch of time, in figures."""

    def __init__(self, answers: list[Answer], seconds: float) -> None:
        self.answers, self.seconds = answers, seconds
        self.statuses = Counter(one.status for one in answers)

    def rate(self, kind: str, *statuses: int) -> float:
        """Return the audio-seconds per second of what got one of these statuses."""
        asked = (one for one in self.answers if one.kind == kind and one.status in statuses)
        return sum(one.audio for one in asked) / self.seconds

    def part(self, peaks: Peaks, *statuses: int) -> float:
        """Return the same of all kinds, in peaks."""
        return sum(self.rate(kind, *statuses) / peak for kind, peak in peaks.items())

    def waits(self, kind: str) -> np.ndarray:
        """Return the median, the 99th percentile and the most of the seconds until an answer."""
        done = [one.took for one in self.answers if one.kind == kind and one.status == 200]
        return np.percentile(done or [np.nan], [50, 99, 100])

    @property
    def lost(self) -> int:
        """Answers that are neither 200 nor 429."""
        return len(self.answers) - self.statuses[200] - self.statuses[429]

    def rows(self, name: str, peaks: Peaks) -> list[str]:
        """Return lines of the table: one, and for each kind of several one with its waits."""
        kinds = sorted({one.kind for one in self.answers})
        refused = 100 * self.statuses[429] / max(1, len(self.answers))
        cells = [
            name,
            f"{self.part(peaks, 200, 429):.2f}",
            f"{100 * self.part(peaks, 200):.0f} %",
            f"{refused:.0f} %",
            str(self.lost),
        ]
        lines = []
        for kind in kinds:
            p50, p99, most = self.waits(kind)
            waits = [f"{self.rate(kind, 200):.1f}", f"{p50:.2f}", f"{p99:.2f}", f"{most:.2f}"]
            lines.append(f"| {' | '.join([*cells, kind, *waits])} |")
            cells = [""] * len(cells)
        return lines


HEAD = (
    "| | offered, in peaks | answered, of the peak | 429 | lost | | audio-s/s | p50, s | p99, s "
    "| most, s |\n|---|---|---|---|---|---|---|---|---|---|"
)


def work_of(url: str, config: SnacConfig) -> Work:
    """Return the clips, with the codes that the service makes of them."""
    made, rate = [], config.sampling_rate
    with httpx.Client(base_url=url, headers={"X-Api-Key": KEYS[0]}, timeout=300) as http:
        for wave in clips(15, 1.0, 8.0):
            wav = encode_bytes(wave, rate)
            made.append(Clip(len(wave) / rate, wav, http.post("/v1/encode", content=wav).content))
    return Work(url, KEYS, config, made)


@contextlib.contextmanager
def users(
    kind: type[Caller | SlowReader], work: Work, count: int, over: float = 0.0
) -> Iterator[LocalRunner]:
    """Run so many users while the block runs; they come spread over so many seconds."""
    kind.work = work
    classes: list[type[User]] = [kind]
    environment = Environment(user_classes=classes, host=work.url, stop_timeout=120)
    runner = environment.create_local_runner()
    runner.start(count, spawn_rate=count / over if over else 1000.0)
    try:
        yield runner
    finally:
        runner.quit()


def during(work: Work, seconds: float) -> Stretch:
    """Let users go on for so long; return what ended meanwhile."""
    first = time.monotonic()
    gevent.sleep(seconds)
    last = time.monotonic()
    return Stretch([one for one in work.answers if first <= one.ended < last], last - first)


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
    all answered, and within ``usual``.
    """
    few, most = (round(share * rate * PERIOD) for share in (AFTER, PAST))
    with users(kind, work, few, PERIOD) as runner:
        gevent.sleep(PERIOD)
        runner.start(most, spawn_rate=(most - few) / seconds)
        gevent.sleep(seconds)
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


def burst(work: Work, limit: float, peak: float) -> tuple[str, float]:
    """Post `BURST` queues of clips at once; return what to say, and the part of the peak."""
    count = round(BURST * limit / statistics.mean(clip.seconds for clip in work.clips))
    seen, began = len(work.answers), time.monotonic()
    with users(Returning, work, count):
        while sum(one.status == 200 for one in work.answers[seen:]) < count:
            gevent.sleep(0.1)
    answers = work.answers[seen:]
    refused = [one for one in answers if one.status == 429]
    took = max(one.ended for one in answers) - began
    busy = sum(one.audio for one in answers if one.status == 200) / peak / took
    return (
        f"burst of {count} clips, {BURST:g} times the queue: all answered after {took:.1f} s, "
        f"{100 * busy:.0f} % of it at the peak; {len(refused)} answers were 429, "
        f"{len(answers) / count:.1f} tries for a clip; "
        f"Retry-After from {min(one.retry_after for one in refused):.0f} to "
        f"{max(one.retry_after for one in refused):.0f} s"
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
    options = parser.parse_args()
    logging.getLogger("locust").setLevel(logging.ERROR)
    seconds, config = options.seconds, read(options.model).config
    keys = ",".join(KEYS)
    with service("--model", options.model, SNAC_API_KEYS=keys) as server:
        work = work_of(server.url, config)
        found = [hold(one, work, CLIENTS, seconds) for one in (Busy, BusyDecoding, BusyStreaming)]
        slow = beside_slow_readers(work, seconds)
    kinds = ("encode", "decode", "stream")
    peaks = {kind: one.rate(kind, 200) for kind, one in zip(kinds, found, strict=True)}
    peak, mean = peaks["encode"], statistics.mean(clip.seconds for clip in work.clips)
    limit = round(options.wait * peak)
    bounds = {"SNAC_API_KEYS": keys, "SNAC_MAX_QUEUE_SECONDS": str(limit)}
    with service("--model", options.model, quiet=False, **bounds) as server:
        work = work_of(server.url, config)
        steady = hold(Paced, work, round(STEADY * peak / mean * PERIOD), seconds, PERIOD)
        past, recovered = ramp(Paced, work, peak / mean, seconds, steady.waits("encode")[2])
        said, busy = burst(work, limit, peak)
        cost = statistics.mean(mean / peaks[kind] for kind in PacedMixing.kinds)
        mixed, _ = ramp(PacedMixing, work, 1 / cost, seconds, 0.0)
        alive = httpx.get(f"{server.url}/health/ready").is_success
    print(f"{describe()}; model {options.model}; clips of 1-8 s, {len(KEYS)} callers")
    print(f"SNAC_MAX_QUEUE_SECONDS={limit}, {options.wait:g} s of encoding, from 'steady' on\n")
    print(HEAD)
    table = {
        f"{CLIENTS} clients beside {SLOW_READERS} slow readers": slow,
        f"steady, {STEADY:g} of the peak": steady,
        f"ramp, at {PAST:g} times the peak": past,
        f"mixture, at {PAST:g} times its peak": mixed,
    }
    for one in found:
        print("\n".join(one.rows(f"{CLIENTS} clients", peaks)))
    for name, one in table.items():
        print("\n".join(one.rows(name, peaks)))
    print(f"\n- {said}")
    print(f"- from {PAST:g} to {AFTER:g} of the peak: as fast as steady after {recovered:.1f} s")
    bars = {
        "throughput past the limit": past.part(peaks, 200) >= LEAST_THROUGHPUT,
        "throughput of the mixture": mixed.part(peaks, 200) >= LEAST_THROUGHPUT,
        "throughput beside slow readers": slow.part(peaks, 200) >= LEAST_THROUGHPUT,
        "throughput of the burst": busy >= LEAST_THROUGHPUT,
        "recovery": recovered <= LONGEST_RECOVERY,
        "nothing lost": not any(one.lost for one in table.values()),
        "ready afterwards": alive,
    }
    missed = [name for name, held in bars.items() if not held]
    print(f"- bars missed: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
