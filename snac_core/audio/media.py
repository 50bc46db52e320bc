"""The optional decoder for what libsndfile does not read: PyAV (FFmpeg) in a process of its own.

PyAV and not an ``ffmpeg`` on PATH: an MP4 of a phone has its index at the end, so its reader has
to seek, which a pipe cannot; and the version is pinned. It runs in a child because damaged files
may end a process; the child can open no file and no connection once it has begun. The file stays
here, and the child asks for what it needs of it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from snac_core.audio.byte_view import read_at, size_of
from snac_core.audio.decoder import BLOCK_SAMPLES, Block
from snac_core.audio.part import NotSupportedError
from snac_core.errors import AudioError

STALLED_SECONDS = 60
"""How long the child may answer nothing."""

MEMORY_BYTES = 2**27
"""Memory that the child may have; it has a quarter of it for an hour of AAC."""

_CHILD = Path(__file__).with_name("media_child.py")


@functools.cache
def available() -> bool:
    """Return whether the extra ``media`` is installed."""
    return importlib.util.find_spec("av") is not None


def decoder(
    raw: BinaryIO,
    error: NotSupportedError,
    max_seconds: float | None,
    hold: Callable[[int], None] | None = None,
) -> MediaDecoder:
    """Return a decoder for a file that libsndfile does not read.

    ``hold`` is told how many bytes more, or fewer, the child may have; what it raises leaves none.

    Raises
    ------
    AudioError
        If there is none, saying which format it is and how to convert it.
    """
    if error.demuxer and available():
        return MediaDecoder(raw, error.demuxer, error.words, max_seconds, hold)
    advice = "; convert it: ffmpeg -i INPUT -c:a pcm_s16le OUTPUT.wav" if error.demuxer else ""
    raise AudioError(f"{error}{advice}")


class MediaDecoder:
    """A recording that a child process decodes; see `snac_core.audio.decoder.Decoder`.

    Raises
    ------
    AudioError
        If the child cannot read it.
    """

    def __init__(
        self,
        raw: BinaryIO,
        demuxer: str,
        words: str,
        max_seconds: float | None,
        hold: Callable[[int], None] | None = None,
    ) -> None:
        self._raw, self._words, self._hold = raw, words, hold
        if hold is not None:
            hold(MEMORY_BYTES)
        arguments = (demuxer, max_seconds or 0, size_of(raw), MEMORY_BYTES)
        self._child = subprocess.Popen(
            [sys.executable, "-I", str(_CHILD), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "OMP_NUM_THREADS": "1"},
        )
        assert self._child.stdout is not None
        assert self._child.stdin is not None
        self._out, self._in = self._child.stdout.fileno(), self._child.stdin.fileno()
        os.set_blocking(self._in, False)
        self._rest = b""
        try:
            head = self._message()
        except BaseException:
            self.close()
            raise
        self.sample_rate: int = head["sample_rate"]
        self.channels: int = head["channels"]
        self.frames: int | None = None

    def blocks(self) -> Iterator[Block]:
        """Yield the samples that the child decodes."""
        size = 4 * self.channels * max(1, BLOCK_SAMPLES // self.channels)
        frames = 0
        while length := self._message()["bytes"]:
            left = length
            while left:
                data = self._exactly(min(left, size))
                left -= len(data)
                block = np.frombuffer(data, "<f4").reshape(-1, self.channels)
                frames += len(block)
                yield block
        if not frames:
            raise AudioError("the audio has a header and no samples")

    def close(self) -> None:
        """End the child."""
        if self._child.poll() is None:
            self._child.kill()
        assert self._child.stdout is not None
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait()
        if self._hold is not None:
            self._hold(-MEMORY_BYTES)
            self._hold = None

    def _message(self) -> dict[str, int]:
        """Return what the child says, once it has all that it asks for."""
        until = time.monotonic() + STALLED_SECONDS
        while time.monotonic() < until:
            while b"\n" not in self._rest:
                self._rest += self._read()
            line, _, self._rest = self._rest.partition(b"\n")
            message = json.loads(line)
            if "error" in message:
                raise AudioError(f"not readable as audio: {self._words}: {message['error']}")
            if "read" not in message:
                found: dict[str, int] = message
                return found
            offset, size = message["read"]
            # A pipe takes that much at once. A child that is gone, or that does not take what it
            # asked for, is met where it is heard next.
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                os.write(self._in, read_at(self._raw, offset, size))
        raise self._ended()

    def _exactly(self, size: int) -> bytes:
        parts = [self._rest[:size]]
        self._rest = self._rest[size:]
        left = size - len(parts[0])
        while left:
            data = self._read()
            parts.append(data[:left])
            self._rest = data[left:]
            left -= len(parts[-1])
        return b"".join(parts)

    def _read(self) -> bytes:
        ready, _, _ = select.select([self._out], [], [], STALLED_SECONDS)
        data = os.read(self._out, 2**18) if ready else b""
        if data:
            return data
        raise self._ended()

    def _ended(self) -> AudioError:
        """End the child, if it has not ended; return what there is to say of that."""
        self.close()
        code = self._child.returncode
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return AudioError(
            f"not readable as audio: {self._words}: the decoder ended ({why}); the recording is "
            "damaged, or too large to decode"
        )
