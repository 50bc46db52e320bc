"""Attacks on a service of its own, and what each one does to everybody else.

    python bench/attacks.py [--only 3 --only 4] [--save after.json] [--before before.json]

Each attack starts `snac-service` with a tiny model on loopback, is bounded in bytes and seconds,
and is made while a probe asks ``/health/live``. The table says what became of the attack, the
probe's 99th percentile and longest wait, and by how much the service's memory grew at its peak.
``--before`` adds the column of an earlier run, such as one of another checkout:

    PYTHONPATH=/path/to/checkout python bench/attacks.py --save before.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import attacks_on_files
import attacks_on_requests
from attacked import Seen
from machine import describe

Attack = Callable[[], tuple[str, Seen | None]]
ATTACKS: dict[str, Attack] = {**attacks_on_requests.ATTACKS, **attacks_on_files.ATTACKS}


def run(name: str) -> dict[str, object]:
    """Make one attack; what it raises is its result."""
    started = time.perf_counter()
    try:
        said, seen = ATTACKS[name]()
    except Exception as error:  # noqa: BLE001 - an attack that breaks is a row like any other
        traceback.print_exc()
        said, seen = f"{type(error).__name__}: {error}"[:200], None
    row = {"said": said, "took": round(time.perf_counter() - started, 1)}
    return {**row, **(dataclasses.asdict(seen) if seen else {})}


def cell(row: dict[str, object] | None) -> str:
    """Describe one run of an attack."""
    if row is None:
        return ""
    said = str(row["said"])
    if "p99" not in row:
        return said
    return (
        f"{said}; probe p99 {1000 * float(str(row['p99'])):.0f} ms, longest "
        f"{float(str(row['longest'])):.2f} s, {row['failures']} failed; "
        f"+{float(str(row['grown_mib'])):.0f} MiB"
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", help="number or beginning of an attack's name")
    parser.add_argument("--save", type=Path, help="write the results as JSON")
    parser.add_argument("--before", type=Path, help="results of an earlier run, to print beside")
    options = parser.parse_args()
    names = [
        name
        for name in ATTACKS
        if not options.only or any(name.startswith(start) for start in options.only)
    ]
    before = json.loads(options.before.read_text()) if options.before else {}
    results: dict[str, dict[str, object]] = {}
    print(f"{describe()}\n\n| attack | before | after |\n|---|---|---|")
    for name in names:
        results[name] = run(name)
        print(f"| {name} | {cell(before.get(name))} | {cell(results[name])} |", flush=True)
        if options.save:
            options.save.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
