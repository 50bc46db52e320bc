"""Locust's users of the service, each with a key of its own, and the log of what they were answered."""

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
from locust import FastHttpUser, User, task
from locust.exception import StopUser
from locust.user.wait_time import constant_pacing

from snac_core.client import ProblemError, SnacClient
from snac_core.codes import Codes
from snac_core.layouts import to_layout

PERIOD = 10.0
"""Seconds between two requests of a user that posts at a rate, however long the answer takes."""
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
    clips: list[Clip]
    answers: list[Answer] = dataclasses.field(default_factory=list)
    served: int = 0
    """Users so far; they take the keys in turns."""


class Caller(FastHttpUser):
    """One connection, one key, clips in random order."""

    abstract = True
    work: ClassVar[Work]
    network_timeout = 300.0
    connection_timeout = 60.0

    def on_start(self) -> None:
        """Take the next key."""
        work = self.work
        self.key = work.keys[work.served % len(work.keys)]
        self.chance = random.Random(work.served)
        work.served += 1

    def post(self, kind: str, clip: Clip) -> Answer:
        """Encode or decode a clip, and write down the answer."""
        body = clip.wav if kind == "encode" else clip.codes
        media = "audio/wav" if kind == "encode" else "application/json"
        headers = {"X-Api-Key": self.key, "Content-Type": media}
        began = time.monotonic()
        got = self.client.post(f"/v1/{kind}", data=body, headers=headers)
        wait = float((got.headers or {}).get("Retry-After", 0))
        return self.note(kind, began, got.status_code, clip.seconds, wait)

    def note(self, kind: str, began: float, status: int, audio: float, wait: float) -> Answer:
        """Write down one answer."""
        answer = Answer(kind, began, time.monotonic() - began, status, audio, wait)
        self.work.answers.append(answer)
        return answer

    def any_clip(self) -> Clip:
        """Return one of the clips."""
        return self.chance.choice(self.work.clips)


class Busy(Caller):
    """Posts the next clip as soon as the last one is answered."""

    @task
    def encode(self) -> None:
        """Encode one clip."""
        self.post("encode", self.any_clip())


class Paced(Caller):
    """Posts a clip every `PERIOD` seconds, and does not come back when refused."""

    wait_time = constant_pacing(PERIOD)

    @task
    def encode(self) -> None:
        """Encode one clip."""
        self.post("encode", self.any_clip())


class Returning(Caller):
    """Wants one clip encoded, and comes back when `Retry-After` says, until it is."""

    @task
    def encode(self) -> None:
        """Encode one clip, in as many tries as it takes."""
        clip = self.any_clip()
        while (answer := self.post("encode", clip)).status == 429:
            gevent.sleep(answer.retry_after)
        raise StopUser


class Mixing(Caller):
    """Encodes, decodes, and now and then decodes a stream of tokens."""

    abstract = True

    def on_start(self) -> None:
        """Take a key, and a client for the streams."""
        super().on_start()
        self.streams = SnacClient(self.work.url, self.key, retries=0)

    @task
    def any_kind(self) -> None:
        """Send one request, of a kind by chance."""
        kind = self.chance.choice(["encode"] * 5 + ["decode"] * 4 + ["stream"])
        clip = self.any_clip()
        if kind == "stream":
            self.stream(clip)
        else:
            self.post(kind, clip)

    def stream(self, clip: Clip) -> None:
        """Decode a clip's tokens over a WebSocket, as they come from a generator."""
        codes = Codes.from_dict(json.loads(clip.codes))
        tokens = to_layout(codes.levels, "flat", config=self.streams_config)
        began, status, made = time.monotonic(), 0, 0
        try:
            parts = (tokens[at : at + 70] for at in range(0, len(tokens), 70))
            for samples in self.streams.stream_decode(parts, "flat", num_samples=codes.num_samples):
                made += len(samples)
            status = 200 if made == codes.num_samples else 0
        except ProblemError as error:
            status = error.status
        except OSError:
            status = 0
        self.note("stream", began, status, clip.seconds, 0.0)

    streams_config: ClassVar[Any] = None


class BusyMixing(Mixing):
    """Sends the next request as soon as the last one is answered."""


class PacedMixing(Mixing):
    """Sends a request every `PERIOD` seconds."""

    wait_time = constant_pacing(PERIOD)


class SlowReader(User):
    """Has the longest clip decoded, and takes the answer at 8 kB/s."""

    work: ClassVar[Work]
    reading: ClassVar[int] = 0

    @task
    def read(self) -> None:
        """Send one request on a socket with the smallest buffer, and read slowly."""
        work = self.work
        clip = max(work.clips, key=lambda one: one.seconds)
        place = urlsplit(work.url)
        key = work.keys[SlowReader.reading % len(work.keys)]
        head = (
            f"POST /v1/decode HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(clip.codes)}\r\n\r\n"
        )
        with contextlib.suppress(OSError), socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
            peer.connect((place.hostname, place.port))
            peer.sendall(head.encode() + clip.codes)
            if b" 200 " in peer.recv(PIECE):
                SlowReader.reading += 1
                while peer.recv(PIECE):
                    gevent.sleep(0.25)
        gevent.sleep(1.0)
