"""Locust's users of the service, each with a key, and the log of what they were answered."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import socket
import time
from typing import Any, ClassVar
from urllib.parse import urlsplit

import gevent
from locust import FastHttpUser, User, constant_pacing, task
from locust.exception import StopUser

from snac_core.client import ProblemError, SnacClient
from snac_core.codes import Codes
from snac_core.config import SnacConfig
from snac_core.layouts import to_layout

PERIOD = 10.0
"""Seconds between two requests of a user that posts at a rate, however long the answer takes."""
FRAMES = 10
"""Frames of tokens in a message of a stream."""
PIECE = 2048
"""Bytes that a slow reader takes at once, four times a second."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is posted: a file, and its codes as the service gave them."""

    seconds: float
    wav: bytes
    codes: bytes


@dataclasses.dataclass(frozen=True)
class Answer:
    """One request: when it began and how long it took, in seconds, and what came."""

    kind: str
    began: float
    took: float
    status: int
    audio: float
    retry_after: float = 0.0

    @property
    def ended(self) -> float:
        """When the answer was there."""
        return self.began + self.took


@dataclasses.dataclass
class Work:
    """What users post and where they write down what came of it."""

    url: str
    keys: tuple[str, ...]
    config: SnacConfig
    clips: list[Clip]
    answers: list[Answer] = dataclasses.field(default_factory=list)
    users: int = 0
    """Users so far; they take the keys in turns."""
    reading: int = 0
    """Slow readers whose answer has begun to come."""


class Caller(FastHttpUser):
    """One connection, one key, clips in random order."""

    abstract = True
    work: ClassVar[Work]
    kinds: ClassVar[tuple[str, ...]] = ("encode",)
    network_timeout = 300.0
    connection_timeout = 60.0

    def on_start(self) -> None:
        """Take the next key."""
        self.key = self.work.keys[self.work.users % len(self.work.keys)]
        self.chance = random.Random(self.work.users)
        self.work.users += 1
        self.streams = SnacClient(self.work.url, self.key, retries=0)

    def send(self) -> Answer:
        """Send one request of a kind by chance, and write down the answer."""
        kind, clip = self.chance.choice(self.kinds), self.chance.choice(self.work.clips)
        began = time.monotonic()
        status, wait = self.stream(clip) if kind == "stream" else self.post(kind, clip)
        answer = Answer(kind, began, time.monotonic() - began, status, clip.seconds, wait)
        self.work.answers.append(answer)
        return answer

    def post(self, kind: str, clip: Clip) -> tuple[int, float]:
        """Encode or decode a clip; return the status and `Retry-After`."""
        body = clip.wav if kind == "encode" else clip.codes
        media = "audio/wav" if kind == "encode" else "application/json"
        headers = {"X-Api-Key": self.key, "Content-Type": media}
        # Bytes go through as they are, whatever its types say.
        got = self.client.post(f"/v1/{kind}", data=body, headers=headers)  # type: ignore[arg-type]
        answered: Any = got.headers or {}
        return got.status_code, float(answered.get("Retry-After") or 0)

    def stream(self, clip: Clip) -> tuple[int, float]:
        """Decode a clip's tokens over a WebSocket as fast as they are taken."""
        config, codes = self.work.config, Codes.from_dict(json.loads(clip.codes))
        tokens = to_layout(codes.levels, "flat", config=config)
        size = FRAMES * sum(config.codes_per_frame)
        parts = (tokens[at : at + size] for at in range(0, len(tokens), size))
        made = 0
        try:
            for samples in self.streams.stream_decode(parts, "flat", num_samples=codes.num_samples):
                made += len(samples)
        except ProblemError as error:
            return error.status, float(error.problem.get("retry_after", 0))
        except OSError:
            return 0, 0.0
        return (200 if made == codes.num_samples else 0), 0.0


class Busy(Caller):
    """Sends the next request as soon as the last one is answered."""

    @task
    def go(self) -> None:
        """Send one request."""
        gevent.sleep(self.send().retry_after)


class BusyDecoding(Busy):
    """The same, to decode."""

    kinds = ("decode",)


class BusyStreaming(Busy):
    """The same, to decode streams."""

    kinds = ("stream",)


class Paced(Caller):
    """Sends a request every `PERIOD` seconds, and does not come back when refused."""

    wait_time = constant_pacing(PERIOD)

    @task
    def go(self) -> None:
        """Send one request."""
        self.send()


class PacedMixing(Paced):
    """The same, of all kinds."""

    kinds = ("encode",) * 5 + ("decode",) * 4 + ("stream",)


class Returning(Caller):
    """Wants one clip encoded, and comes back when `Retry-After` says, until it is."""

    @task
    def go(self) -> None:
        """Encode a clip, in as many tries as it takes."""
        while (answer := self.send()).status == 429:
            gevent.sleep(answer.retry_after)
        raise StopUser


class SlowReader(User):
    """Has the longest clip decoded, and takes the answer at 8 kB/s."""

    work: ClassVar[Work]

    @task
    def go(self) -> None:
        """Send one request on a socket with the smallest buffer, and read slowly."""
        work = self.work
        clip = max(work.clips, key=lambda one: one.seconds)
        place = urlsplit(work.url)
        key = work.keys[work.reading % len(work.keys)]
        head = (
            f"POST /v1/decode HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(clip.codes)}\r\n\r\n"
        )
        with contextlib.suppress(OSError), socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
            peer.connect((place.hostname, place.port))
            peer.sendall(head.encode() + clip.codes)
            if b" 200 " in peer.recv(PIECE):
                work.reading += 1
                while peer.recv(PIECE):
                    gevent.sleep(0.25)
        gevent.sleep(1.0)
