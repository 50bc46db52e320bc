"""The lengths of MP3s of every kind of encoder setting, against ffmpeg's.

    python bench/mp3_grid.py [--every 1] [--jobs 2]

``lame`` and ``ffmpeg`` (both of Debian) encode noise and tones with every combination of the
settings below; tags are put in front, and files are joined with themselves. A setting is whole
if ``snac_core.audio.read`` gives as many samples as ffmpeg does, to one MPEG frame, or refused if
it raises an error. Anything else is wrong, is named, and is the exit status. ``--every`` takes
only one of so many settings.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import struct
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from machine import describe

from snac_core import audio
from snac_core.audio import mpeg
from snac_core.errors import AudioError

ENCODERS = ("lame", "ffmpeg")
MODES = ("CBR", "VBR", "ABR")
HEADERS = ("Xing or Info", "none", "VBRI")
RATES = {44100: "1", 24000: "2", 8000: "2.5"}
"""Hz, each of another version of MPEG."""
CHANNELS = (1, 2)
SECONDS = (0.1, 0.7, 4.0, 30.0)
TAG_BYTES = (0, 1000, 10_000, 100_000)
TIMES = (1, 2)
BITRATE = {44100: 64, 24000: 48, 8000: 24}
"""kbit/s of a constant or average rate."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What an encoder is told."""

    encoder: str
    mode: str
    header: str
    rate: int
    channels: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.encoder} {self.mode}, header {self.header}, {self.rate} Hz, "
            f"{self.channels} channels, {self.seconds:g} s"
        )


def sound(encoding: Encoding) -> np.ndarray:
    """Return loud and soft stretches, for which a variable rate varies."""
    count = round(encoding.seconds * encoding.rate)
    random, at = np.random.default_rng(0), np.arange(count)
    loud = at // (encoding.rate // 2) % 2
    noise = random.standard_normal((encoding.channels, count))
    return np.where(loud, 0.1 * noise, 0.05 * np.sin(0.1 * at)).T


def encode(encoding: Encoding, folder: Path) -> bytes:
    """Return the MP3 that the encoder makes."""
    name = "-".join(str(value) for value in dataclasses.astuple(encoding)).replace(" ", "_")
    wav, mp3 = folder / f"{name}.wav", folder / f"{name}.mp3"
    soundfile.write(wav, sound(encoding), encoding.rate)
    bitrate, bare = BITRATE[encoding.rate], encoding.header != "Xing or Info"
    if encoding.encoder == "lame":
        mode = {"CBR": ["--cbr", "-b"], "ABR": ["--abr"], "VBR": ["-V"]}[encoding.mode]
        value = "5" if encoding.mode == "VBR" else str(bitrate)
        resample = ["--resample", f"{encoding.rate / 1000:g}"]
        header = ["-t"] if bare else []
        command = ["lame", "--quiet", *mode, value, *resample, *header, str(wav), str(mp3)]
    else:
        rated = ["-b:a", f"{bitrate}k", "-abr", str(int(encoding.mode == "ABR"))]
        mode = ["-q:a", "5"] if encoding.mode == "VBR" else rated
        header = ["-write_xing", str(int(not bare)), "-id3v2_version", "0"]
        command = [*["ffmpeg", "-v", "error", "-y", "-i"], str(wav), *mode, *header, str(mp3)]
    subprocess.run(command, check=True, capture_output=True)
    data = mp3.read_bytes()
    wav.unlink()
    mp3.unlink()
    return with_vbri(data) if encoding.header == "VBRI" else data


def with_vbri(data: bytes) -> bytes:
    """Put in front of bare frames the header that Fraunhofer's encoder writes."""
    frames, at = 0, 0
    while header := mpeg.parse_header(data[at : at + 4]):
        frames, at = frames + 1, at + header.length
    # The frame's header with the highest bitrate, so that the table of contents fits.
    head = bytes((data[0], data[1] | 1, data[2] & 0x0D | 0xE0, data[3]))
    header = mpeg.parse_header(head)
    assert header is not None
    body = bytearray(header.length)
    body[:4] = head
    # Version, delay, quality, bytes, frames, and a table of one entry of two bytes.
    values = (b"VBRI", 1, 0, 75, len(data), frames, 1, 1, 2, frames, 0)
    struct.pack_into(">4sHHHIIHHHHH", body, 36, *values)
    return bytes(body) + data


def id3v2(size: int) -> bytes:
    """Return a tag of ``size`` bytes, a private frame that holds sync words among its bytes."""
    if not size:
        return b""
    body = np.random.default_rng(size).bytes(size - 20)
    sizes = [bytes(value >> 7 * n & 127 for n in (3, 2, 1, 0)) for value in (size - 10, size - 20)]
    return b"ID3\x04\0\0" + sizes[0] + b"PRIV" + sizes[1] + b"\0\0" + body


def samples_of_ffmpeg(path: Path, channels: int) -> int:
    """Return how many samples of each channel ffmpeg decodes."""
    command = f"ffmpeg -v error -f mp3 -i {path} -c:a pcm_s16le -f s16le -".split()
    ran = subprocess.run(command, check=True, capture_output=True)
    return len(ran.stdout) // (2 * channels)


def judge(encoding: Encoding, data: bytes, tag: int, times: int, folder: Path) -> tuple[str, str]:
    """Return ``whole``, ``refused`` or ``wrong`` of one setting, and what there is to say of it."""
    whole = (id3v2(tag) + data) * times
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".mp3") as file:
        file.write(whole)
        file.flush()
        expected = samples_of_ffmpeg(Path(file.name), encoding.channels)
    try:
        found = len(audio.read(whole, encoding.rate))
    except AudioError as error:
        return "refused", str(error)
    frame = 1152 if encoding.rate >= 32000 else 576
    said = f"{encoding}, tag {tag}, {times} times: {found} samples, ffmpeg {expected}"
    return ("whole" if abs(found - expected) <= frame else "wrong"), said


def main() -> int:
    """Print the table; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore", audio.AudioWarning)
    axes = (ENCODERS, MODES, HEADERS, RATES, CHANNELS, SECONDS)
    encodings = [Encoding(*values) for values in itertools.product(*axes)]
    settings = [
        (encoding, tag, times) for encoding in encodings for tag in TAG_BYTES for times in TIMES
    ][:: options.every]
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as threads:
        folder = Path(name)
        needed = list(dict.fromkeys(encoding for encoding, _, _ in settings))
        made = dict(zip(needed, threads.map(lambda one: encode(one, folder), needed), strict=True))
        answers = threads.map(
            lambda one: judge(one[0], made[one[0]], one[1], one[2], folder), settings
        )
        for (encoding, _, times), (state, said) in zip(settings, answers, strict=True):
            joined = "joined twice" if times > 1 else "one file"
            counts[f"MPEG-{RATES[encoding.rate]}, header {encoding.header}, {joined}", state] += 1
            if state == "refused":
                reasons[said.split(":")[0]] += 1
            elif state == "wrong":
                print(f"wrong: {said}", file=sys.stderr, flush=True)
    print(f"{describe()}\n\n| MP3s | settings | whole | refused | wrong |\n|---|---|---|---|---|")
    states = ("whole", "refused", "wrong")
    rows = {row: [counts[row, state] for state in states] for row, _ in sorted(counts)}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    for row, values in rows.items():
        print(f"| {row} | {sum(values)} | {' | '.join(map(str, values))} |")
    for reason, count in reasons.most_common():
        print(f"\nrefused {count}: {reason}")
    return int(rows["all"][2] > 0)


if __name__ == "__main__":
    sys.exit(main())
