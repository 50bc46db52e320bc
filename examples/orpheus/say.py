"""Have the bridge say something, and print how soon it does.

python examples/orpheus/say.py "Good morning." --output morning.wav
"""

from __future__ import annotations

import argparse
import time
import wave
from pathlib import Path

import httpx

SAMPLE_RATE = 24000


def main() -> None:
    """Post a text, write a WAV file, and print a line for what came when."""
    parser = argparse.ArgumentParser(description="Speech of a text, from the bridge.")
    parser.add_argument("text")
    parser.add_argument("--bridge", default="http://127.0.0.1:8001", metavar="URL")
    parser.add_argument("--voice", default="tara")
    parser.add_argument("--output", type=Path, default=Path("speech.wav"))
    arguments = parser.parse_args()
    body = {"input": arguments.text, "voice": arguments.voice, "response_format": "pcm"}
    begin, received, first = time.perf_counter(), bytearray(), 0.0
    with httpx.stream(
        "POST", f"{arguments.bridge}/v1/audio/speech", json=body, timeout=300
    ) as answer:
        if not answer.is_success:
            raise SystemExit(f"{answer.status_code}: {answer.read().decode()}")
        for part in answer.iter_bytes():
            if not received:
                first = time.perf_counter() - begin
            received += part
    total = time.perf_counter() - begin
    with wave.open(str(arguments.output), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(received)
    seconds = len(received) / 2 / SAMPLE_RATE
    print(f"text         {arguments.text!r}, voice {arguments.voice}")
    print(f"first audio  {1000 * first:.0f} ms after the request")
    print(f"all audio    {seconds:.2f} s of speech after {total:.2f} s")
    print(f"written      {arguments.output}")


if __name__ == "__main__":
    main()
