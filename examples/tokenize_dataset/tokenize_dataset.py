"""A manifest of recordings and texts into lines to train a language model on, over HTTP.

    python examples/tokenize_dataset/tokenize_dataset.py recordings/metadata.csv train.jsonl

Many clips are posted at once, and the service batches them. Run it again, and it goes on with what
``train.jsonl`` lacks; a clip that fails is named, left out, and tried again the next time.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from snac_core.client import AsyncSnacClient, ProblemError


def clips(manifest: Path, done: Iterable[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV with columns ``path`` and ``text`` that are not done."""
    finished = set(done)
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"path", "text"} <= rows[0].keys():
        raise SystemExit(f"{manifest} must be a CSV with rows, and with columns path and text")
    return [row for row in rows if row["path"] not in finished]


def lines(output: Path) -> list[dict[str, object]]:
    """Return what an earlier run wrote."""
    if not output.exists():
        return []
    return [json.loads(line) for line in output.read_text("utf-8").splitlines()]


async def tokenize(
    client: AsyncSnacClient, clip: dict[str, str], folder: Path, layout: str
) -> dict[str, object]:
    """Return a line: what is in the manifest, and the tokens."""
    recording = await asyncio.to_thread((folder / clip["path"]).read_bytes)
    encoded = await client.encode(recording, layout=layout)
    return {
        **clip,
        "seconds": round(encoded.num_samples / encoded.sample_rate, 3),
        "tokens": encoded.tokens,
        "token_space": encoded.token_space,
    }


async def run(arguments: argparse.Namespace, file: TextIO) -> int:
    """Tokenize what is missing, and return how many clips failed."""
    earlier = lines(arguments.output)
    spaces = {str(line["token_space"]) for line in earlier}
    todo = clips(arguments.manifest, (str(line["path"]) for line in earlier))
    places = asyncio.Semaphore(arguments.at_once)
    begin, seconds, tokens, failed = time.perf_counter(), 0.0, 0, 0
    async with AsyncSnacClient(arguments.snac, arguments.api_key) as client:

        async def one(clip: dict[str, str]) -> dict[str, object]:
            async with places:
                return await tokenize(client, clip, arguments.manifest.parent, arguments.layout)

        tasks = {asyncio.ensure_future(one(clip)): clip["path"] for clip in todo}
        while tasks:
            finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                path = tasks.pop(task)
                try:
                    line = task.result()
                except (ProblemError, OSError) as error:
                    failed += 1
                    print(f"{path}: {error}", file=sys.stderr)
                    continue
                spaces.add(str(line["token_space"]))
                if len(spaces) > 1:
                    # Another model was published: its tokens mean something else.
                    raise SystemExit(f"tokens of several token spaces: {', '.join(sorted(spaces))}")
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                seconds += float(str(line["seconds"]))
                tokens += len(line["tokens"])  # type: ignore[arg-type]
    took = time.perf_counter() - begin
    print(
        f"{len(todo) - failed} clips, {seconds:.1f} s of audio, {tokens} tokens in {took:.1f} s "
        f"({seconds / took:.1f} x real time); {failed} failed, {len(earlier)} were done already"
    )
    return failed


def main() -> int:
    """Run the program, and return its exit code: 1 if a clip failed."""
    parser = argparse.ArgumentParser(description="Recordings and texts into training lines.")
    parser.add_argument("manifest", type=Path, help="a CSV with columns path and text")
    parser.add_argument("output", type=Path, help="a file of JSON lines, made or continued")
    parser.add_argument("--layout", default="orpheus", choices=["orpheus", "flat", "mini-omni"])
    parser.add_argument("--at-once", type=int, default=16, metavar="N", help="requests at a time")
    parser.add_argument("--snac", default="http://127.0.0.1:8000", metavar="URL")
    parser.add_argument("--api-key", help="the service's key, if it wants one")
    arguments = parser.parse_args()
    with arguments.output.open("a", encoding="utf-8") as file:
        return 1 if asyncio.run(run(arguments, file)) else 0


if __name__ == "__main__":
    sys.exit(main())
