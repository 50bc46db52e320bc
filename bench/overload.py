"""The peak of encoding, and twice as much as that, in turns: what is answered, and how soon after.

    python bench/overload.py [--model starter] [--rounds 4] [--seconds 6] [--wait 2]

Machines are not always as fast, the less if others share them. So each round takes a peak, with
eight callers that send as fast as they are answered, ramps to twice that rate and goes back to half
of it; and each ramp is compared with the mean of the peaks before and after it. Medians over the
rounds are what counts. A ramp has recovered once clips take no longer than at the peak before.
Exit code 1 says that a bar is missed.
"""

from __future__ import annotations

# First of all: gevent, on which Locust runs, replaces what opens sockets.
from load_users import Busy, Paced

# isort: split
import argparse
import logging
import statistics
import sys

from load import (
    CLIENTS,
    HEAD,
    KEYS,
    LEAST_THROUGHPUT,
    LONGEST_RECOVERY,
    PAST,
    Peak,
    Stretch,
    hold,
    ramp,
    show,
    work_of,
)
from machine import describe
from running import service

from snac_core.store.checkpoint import read


def between(before: Stretch, after: Stretch) -> dict[str, Peak]:
    """Return the mean of two peaks."""
    rate = statistics.mean(one.rate("encode", 200) for one in (before, after))
    return {"encode": Peak(rate, statistics.mean((before.cores, after.cores)))}


def main() -> int:
    """Print Markdown; 0 if the bars are held."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each stretch")
    parser.add_argument("--wait", type=float, default=2.0, help="what the queue holds, in seconds")
    options = parser.parse_args()
    logging.getLogger("locust").setLevel(logging.ERROR)
    seconds, config = options.seconds, read(options.model).config
    print(f"{describe()}; model {options.model}; clips of 1-8 s, {len(KEYS)} callers\n\n{HEAD}")
    with service("--model", options.model, SNAC_API_KEYS=",".join(KEYS)) as server:
        work = work_of(server, config)
        rate = hold(Busy, work, CLIENTS, seconds).rate("encode", 200)
    limit, mean = round(options.wait * rate), statistics.mean(one.seconds for one in work.clips)
    bounds = {"SNAC_API_KEYS": ",".join(KEYS), "SNAC_MAX_QUEUE_SECONDS": str(limit)}
    parts, per_core, recoveries, lost = [], [], [], 0
    with service("--model", options.model, quiet=False, **bounds) as server:
        work = work_of(server, config)
        before = hold(Busy, work, CLIENTS, seconds)
        for _ in range(options.rounds):
            asked = before.rate("encode", 200) / mean
            past, recovered = ramp(Paced, work, asked, seconds, before.waits("encode")[2])
            after = hold(Busy, work, CLIENTS, seconds)
            near = between(before, after)
            show(f"{CLIENTS} clients", before, near)
            show(f"{PAST:g} times the peak", past, near)
            parts.append(past.part(near, 200))
            per_core.append(past.part_per_core(near))
            recoveries.append(recovered)
            lost += past.lost
            before = after
        show(f"{CLIENTS} clients", before, near)
    answered, efficient, recovery = map(statistics.median, (parts, per_core, recoveries))
    print(f"\n- SNAC_MAX_QUEUE_SECONDS={limit}, {options.wait:g} s of encoding")
    print(f"- answered past the limit, of the peak: {100 * answered:.0f} %")
    print(f"- the same per CPU-second of the service: {100 * efficient:.0f} %")
    print(f"- recovered after {recovery:.1f} s ({', '.join(f'{one:.1f}' for one in recoveries)})")
    bars = {
        "throughput": efficient >= LEAST_THROUGHPUT,
        "recovery": recovery <= LONGEST_RECOVERY,
        "nothing lost": not lost,
    }
    missed = [name for name, held in bars.items() if not held]
    print(f"- bars missed: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
