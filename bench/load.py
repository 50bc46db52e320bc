"""Load up to twice what the service can sustain, and past it: what is answered, refused and waited for.

    python bench/load.py [--model starter] [--seconds 30] [--wait 2]

Locust posts clips of 1-8 s to `snac-service` as eight callers. First as much as the service takes,
which is the peak. Then, with a queue of ``--wait`` seconds of that: a steady rate; a ramp from half
the peak to twice it, and back; a burst whose callers come back when `Retry-After` says; clients
that read slowly; and a mixture of encoding, decoding and streams. Exit code 1 says that a bar is
missed.
"""

from __future__ import annotations

# Before all that opens sockets: gevent, on which Locust runs, replaces them.
from load_users import (
    PERIOD,
    Answer,
    Busy,
    BusyMixing,
    Caller,
    Clip,
    Mixing,
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
from collections.abc import Iterator

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
from snac_core.store.checkpoint import read

KEYS = tuple(f"caller-{number}" for number in range(8))
CLIENTS = 8
"""That post as fast as they are answered, to find the peak."""
SLOW_READERS = 32
BURST = 4.0
"""Audio in a burst, in queues."""
STEADY, PAST = 0.8, 2.0
"""Offered rates, in peaks."""
LEAST_THROUGHPUT, LONGEST_RECOVERY = 0.9, 5.0


def work_of(url: str, rate: int) -> Work:
    """Return the clips, with the codes that the service makes of them."""
    made = []
    with httpx.Client(base_url=url, headers={"X-Api-Key": KEYS[0]}, timeout=300) as http:
        for wave in clips(15, 1.0, 8.0):
            wav = encode_bytes(wave, rate)
            made.append(Clip(len(wave) / rate, wav, http.post("/v1/encode", content=wav).content))
    return Work(url, KEYS, made)


@contextlib.contextmanager
def users(kind: type[User], work: Work, count: int, over: float = 0.0) -> Iterator[LocalRunner]:
    """Run so many users while the block runs; they come spread ``over`` so many seconds."""
    kind.work = work  # type: ignore[attr-defined]
    environment = Environment(user_classes=[kind], host=work.url, stop_timeout=120)
    runner = environment.create_local_runner()
    runner.start(count, spawn_rate=count / over if over else 1000.0)
    try:
        yield runner
    finally:
        runner.quit()


def between(work: Work, first: float, last: float) -> list[Answer]:
    """Return what was answered in a stretch of time."""
    return [one for one in work.answers if first <= one.ended < last]


class Stretch:
    """What was answered in a stretch of time, in figures."""

    def __init__(self, answers: list[Answer], seconds: float) -> None:
        self.statuses = Counter(one.status for one in answers)
        self.count = len(answers)
        done = [one for one in answers if one.status == 200]
        self.throughput = sum(one.audio for one in done) / seconds
        self.offered = sum(one.audio for one in answers) / seconds
        self.took = np.percentile([one.took for one in done] or [np.nan], [50, 99, 100])

    @property
    def lost(self) -> int:
        """Answers that are neither 200 nor 429."""
        return self.count - self.statuses[200] - self.statuses[429]

    def row(self, name: str, peak: float) -> str:
        """Return a line of the table."""
        p50, p99, longest = self.took
        share = 100 * self.statuses[429] / max(1, self.count)
        return (
            f"| {name} | {self.offered / peak:.2f} | {self.throughput:.1f} "
            f"| {100 * self.throughput / peak:.0f} % | {share:.0f} % | {self.lost} "
            f"| {p50:.2f} | {p99:.2f} | {longest:.2f} |"
        )


def hold(kind: type[Caller], work: Work, count: int, seconds: float, over: float = 0.0) -> Stretch:
    """Run users and return what they were answered once all of them are there."""
    with users(kind, work, count, over):
        gevent.sleep(over + 3.0)
        first = time.monotonic()
        gevent.sleep(seconds)
        last = time.monotonic()
    return Stretch(between(work, first, last), seconds)


def ramp(kind: type[Caller], work: Work, most: int, seconds: float) -> tuple[Stretch, float, float]:
    """Go from a quarter of the users to all of them, stay, and go back.

    Returns what was answered while all were there, when they went, and the end.
    """
    few = most // 4
    with users(kind, work, few, PERIOD) as runner:
        gevent.sleep(PERIOD)
        runner.start(most, spawn_rate=(most - few) / seconds)
        gevent.sleep(seconds)
        first = time.monotonic()
        gevent.sleep(seconds)
        last = time.monotonic()
        runner.start(few, spawn_rate=1000.0)
        gevent.sleep(seconds / 2)
        end = time.monotonic()
    return Stretch(between(work, first, last), seconds), last, end


def recovery(work: Work, since: float, until: float, usual: float) -> float:
    """Return the seconds after which requests that begin are answered, and as fast as usual."""
    late = [
        one.began - since
        for one in work.answers
        if since <= one.began < until and (one.status != 200 or one.took > usual)
    ]
    return max(late, default=0.0)


def burst(work: Work, limit: float, peak: float, idle: float) -> tuple[list[str], bool]:
    """Post ``BURST`` queues of clips at once, whose callers come back; return what to say of it."""
    mean = statistics.mean(clip.seconds for clip in work.clips)
    count = round(BURST * limit / mean)
    seen = len(work.answers)
    began = time.monotonic()
    with users(Returning, work, count):
        while sum(one.status == 200 for one in work.answers[seen:]) < count:
            gevent.sleep(0.1)
    answers = work.answers[seen:]
    refused = [one for one in answers if one.status == 429]
    whole = max(one.ended for one in answers) - began
    least = sum(one.audio for one in answers if one.status == 200) / peak
    firsts = sum(one.began - began < idle for one in refused)
    tries = len(answers) / count
    said = [
        f"burst of {count} clips, {BURST:g} times the queue: {firsts} were refused at first; all were "
        f"answered after {tries:.1f} tries each on average, in {whole:.1f} s, where the engine "
        f"needs {least:.1f} s without a pause ({100 * least / whole:.0f} %)",
    ]
    return said, whole * LEAST_THROUGHPUT <= least


def slow_readers(work: Work, seconds: float) -> Stretch:
    """Measure the peak again beside clients that read slowly."""
    SlowReader.reading = 0
    with users(SlowReader, work, SLOW_READERS), httpx.Client(base_url=work.url) as http:
        while SlowReader.reading < SLOW_READERS or queued(http) > 0:
            gevent.sleep(0.2)
        return hold(Busy, work, CLIENTS, seconds)


def main() -> int:
    """Print Markdown; 0 if the bars are held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each stretch")
    parser.add_argument("--wait", type=float, default=2.0, help="what the queue holds, in seconds")
    options = parser.parse_args()
    logging.getLogger("locust").setLevel(logging.ERROR)
    seconds = options.seconds
    config = read(options.model).config
    Mixing.streams_config = config
    keys = {"SNAC_API_KEYS": ",".join(KEYS)}
    with service("--model", options.model, **keys) as server:
        work = work_of(server.url, config.sampling_rate)
        first = hold(Busy, work, CLIENTS, seconds)
        slow = slow_readers(work, seconds)
        mixture = hold(BusyMixing, work, CLIENTS, seconds)
    peak = first.throughput
    mean = statistics.mean(clip.seconds for clip in work.clips)
    limit = round(options.wait * peak)
    with service("--model", options.model, SNAC_MAX_QUEUE_SECONDS=str(limit), **keys) as server:
        work = work_of(server.url, config.sampling_rate)

        def count(share: float, of: float) -> int:
            return round(share * of / mean * PERIOD)

        steady = hold(Paced, work, count(STEADY, peak), seconds, PERIOD)
        past, went, end = ramp(Paced, work, count(PAST, peak), seconds)
        back = recovery(work, went, end, steady.took[1])
        said, whole = burst(work, limit, peak, 1.0)
        mixed, _, _ = ramp(PacedMixing, work, count(PAST, mixture.throughput), seconds)
        alive = httpx.get(f"{server.url}/health/ready").is_success
    rows = [
        first.row("8 clients, no limit", peak),
        slow.row(f"8 clients beside {SLOW_READERS} slow readers, no limit", peak),
        steady.row(f"steady, {STEADY:g} of the peak", peak),
        past.row(f"ramp, at {PAST:g} times the peak", peak),
        mixture.row("mixture, 8 clients, no limit", mixture.throughput),
        mixed.row(f"mixture, at {PAST:g} times its peak", mixture.throughput),
    ]
    print(f"{describe()}; model {options.model}; clips of 1-8 s, {len(KEYS)} callers")
    print(f"SNAC_MAX_QUEUE_SECONDS={limit}: {options.wait:g} s of the peak\n")
    print(
        "| | offered, in peaks | audio-s/s | of the peak | 429 | lost | p50, s | p99, s | longest, s |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    print("\n".join(rows), end="\n\n")
    for line in said:
        print(f"- {line}")
    print(f"- from {PAST:g} times the peak to half of it: as fast as before after {back:.1f} s")
    bars = {
        "throughput past the limit": past.throughput >= LEAST_THROUGHPUT * peak,
        "throughput of the mixture": mixed.throughput >= LEAST_THROUGHPUT * mixture.throughput,
        "throughput beside slow readers": slow.throughput >= LEAST_THROUGHPUT * peak,
        "the burst keeps the engine busy": whole,
        "recovery": back <= LONGEST_RECOVERY,
        "nothing lost": not any(one.lost for one in (steady, past, slow, mixed)),
        "ready afterwards": alive,
    }
    missed = [name for name, held in bars.items() if not held]
    print(f"- bars missed: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
