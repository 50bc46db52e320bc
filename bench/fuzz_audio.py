"""Thousands of mutated recordings, posted to a service with the optional decoder.

    python bench/fuzz_audio.py [--files 5000] [--seed 0] [--jobs 4] [--folder RECORDINGS]

Short recordings of every format that the two decoders read, and those of ``--folder``, are cut,
overwritten, joined and shuffled, and posted to ``/v1/encode``. An answer is right if it is 200 or
a problem below 500. The exit status is the number of answers of 500 and above, of answers that
took longer than a minute, and of services that have ended.
"""

from __future__ import annotations

import argparse
import io
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import psutil
import soundfile
from attacked import MIB, Target, service
from machine import describe

from snac_core.audio import media

HANG_SECONDS = 60.0
SOUND = 0.1 * np.random.default_rng(0).standard_normal(12000)
LIBSNDFILE = (
    *(("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "GSM610"), ("WAV", "IMA_ADPCM"), ("RF64", None)),
    *(("W64", None), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)),
    *(("AIFF", None), ("CAF", "ALAC_16"), ("AU", "ULAW"), ("NIST", None), ("VOC", None)),
    *(("SDS", None), ("PAF", None), ("SVX", None), ("AVR", None), ("MAT5", None)),
)
MEDIA = (
    *(("mp4", "aac", 44100), ("adts", "aac", 16000), ("webm", "libopus", 48000)),
    *(("matroska", "flac", 24000), ("asf", "wmav2", 16000), ("flv", "aac", 44100)),
    *(("mpegts", "aac", 48000), ("ac3", "ac3", 48000), ("amr", "libopencore_amrnb", 8000)),
    *(("ogg", "libspeex", 16000), ("3gp", "aac", 16000), ("mp4", "alac", 44100)),
)


def recordings() -> Iterator[tuple[str, bytes]]:
    """Yield half a second of noise in each format that this machine can write."""
    for container, subtype in LIBSNDFILE:
        memory = io.BytesIO()
        soundfile.write(memory, SOUND, 24000, format=container, subtype=subtype)
        yield f"{container} {subtype or ''}".strip(), memory.getvalue()
    for container, codec, rate in MEDIA:
        try:
            yield f"{container} {codec}", recorded(container, codec, rate)
        except (av.error.FFmpegError, ValueError) as error:
            print(f"left out: {container} {codec}: {error}", file=sys.stderr)


def recorded(container: str, codec: str, rate: int) -> bytes:
    """Return the noise as PyAV writes it; a fragmented MP4 for ``3gp``."""
    memory = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov"} if container == "3gp" else {}
    with av.open(memory, "w", format=container, options=options) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout="mono")
        if container == "asf":
            stream.bit_rate = 32_000
        frame = av.AudioFrame.from_ndarray(SOUND[None].astype("f4"), "fltp", "mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or None
        )
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            file.mux(stream.encode(part))
    return memory.getvalue()


def mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Return ``data`` with one to three things done to it, most of them near its start."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        size = max(1, len(changed))
        at = min(size - 1, int(chance.random() ** 3 * size))
        kind = chance.randrange(8)
        if kind == 0:
            for _ in range(chance.randint(1, 30)):
                changed[chance.randrange(size) % len(changed)] = chance.randrange(256)
        elif kind == 1:
            changed[at : at + 4] = chance.choice(
                (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1")
            )
        elif kind == 2:
            changed[at : at + 1] = bytes((changed[at] ^ 1 << chance.randrange(8),))
        elif kind == 3:
            del changed[max(1, size - at) :]
        elif kind == 4:
            del changed[at : at + chance.randint(1, 64)]
        elif kind == 5:
            changed[at:at] = chance.randbytes(chance.randint(1, 64))
        elif kind == 6:
            changed += other
        else:
            length, to = chance.randint(1, 512), chance.randrange(size)
            changed[to : to + length] = changed[at : at + length]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def post(target: Target, data: bytes) -> tuple[str, float]:
    """Return what the service answers, and the seconds that it took."""
    started = time.perf_counter()
    try:
        answer = httpx.post(f"{target.url}/v1/encode", content=data, timeout=HANG_SECONDS)
        said = str(answer.status_code)
    except httpx.HTTPError as error:
        said = type(error).__name__
    return said, time.perf_counter() - started


def main() -> int:
    """Print what was answered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="more recordings to begin with")
    options = parser.parse_args()
    if not media.available():
        raise SystemExit("the extra `media` is not installed")
    seeds = dict(recordings())
    if options.folder:
        seeds |= {path.name: path.read_bytes() for path in sorted(options.folder.iterdir())}
    chance = random.Random(options.seed)
    names = itertools.islice(itertools.cycle(seeds), options.files)
    files = [
        (name, mutated(seeds[name], chance.choice([*seeds.values()]), chance)) for name in names
    ]
    counts: Counter[str] = Counter()
    longest, hangs, errors = 0.0, 0, 0
    with (
        service(MAX_SECONDS="60", REQUEST_TIMEOUT="300") as target,
        ThreadPoolExecutor(options.jobs) as threads,
    ):
        process = psutil.Process(target.process.pid)
        idle = process.memory_info().rss
        answers = threads.map(lambda one: post(target, one[1]), files)
        for number, ((name, data), (said, took)) in enumerate(zip(files, answers, strict=True), 1):
            counts[said] += 1
            longest, hangs = max(longest, took), hangs + (took >= HANG_SECONDS)
            if said.startswith("5") or not said.isdecimal():
                errors += 1
                print(f"{name}: {said} after {took:.1f} s: {data[:64].hex()}", file=sys.stderr)
            if number % 500 == 0:
                print(f"{number} of {len(files)}", file=sys.stderr, flush=True)
        dead = int(target.process.poll() is not None)
        ready = post(target, seeds["WAV PCM_16"])[0]
        grown = (process.memory_info().rss - idle) / MIB
        left = len(process.children())
        log = target.log.read_text(errors="replace").splitlines()
    print(f"{describe()}\n\n| files | of formats | {' | '.join(sorted(counts))} |", end="")
    print(" 500s | hangs | dead services | longest |")
    print("|---" * (len(counts) + 6) + "|")
    print(
        f"| {len(files)} | {len(seeds)} |",
        *(f"{counts[said]} |" for said in sorted(counts)),
        end="",
    )
    print(f" {errors} | {hangs} | {dead} | {longest:.1f} s |\n")
    print(f"Then a whole WAV is answered {ready}; {grown:+.0f} MiB; {left} children left; ", end="")
    print(f"{len(log)} lines in the log, the last of them:", *log[-3:], sep="\n")
    return errors + hangs + dead + (ready != "200")


if __name__ == "__main__":
    sys.exit(main())
