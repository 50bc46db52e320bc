"""An answer is the same, bit for bit, whatever shares the engine's batches with its request."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snac_core.audio import MEDIA_TYPES, encode_bytes, read
from snac_core.codec import WINDOW_SECONDS, Codec
from snac_core.codes import Codes
from snac_core.layouts import LAYOUTS, to_layout
from tests.support.waiting import wait_for

FRAME = 2048
"""Samples of one coarse frame of the model that is served."""
WINDOW = round(WINDOW_SECONDS * 24000)
"""Samples that a window of a long clip contributes."""

layouts = st.sampled_from(list(LAYOUTS))


@dataclasses.dataclass(frozen=True)
class Encode:
    """An audio file, and the layout that its codes are wanted in."""

    length: int
    rate: int
    channels: int
    container: Literal["WAV", "FLAC"]
    subtype: Literal["PCM_16", "PCM_24"]
    layout: str
    seed: int

    def file(self) -> bytes:
        random = np.random.default_rng(self.seed)
        samples = random.uniform(-0.5, 0.5, (self.length, self.channels)).astype(np.float32)
        file = io.BytesIO()
        soundfile.write(file, samples, self.rate, self.subtype, format=self.container)
        return file.getvalue()

    def post(self, http: httpx.Client, codec: Codec) -> httpx.Response:
        return http.post("/v1/encode", params={"layout": self.layout}, content=self.file())

    def check(self, answer: httpx.Response, codec: Codec) -> None:
        (codes,) = codec.encode([read(self.file(), codec.sample_rate)])
        body = answer.json()
        assert body["codes"] == to_layout(codes.levels, self.layout, config=codec.config)
        assert body["num_samples"] == codes.num_samples


@dataclasses.dataclass(frozen=True)
class Decode:
    """Codes, and how they are to be decoded."""

    frames: int
    left_out: int
    layout: str
    noise: Literal["seeded", "off"]
    seed: int
    form: Literal["wav", "flac", "pcm"]

    def codes(self, codec: Codec) -> Codes:
        random = np.random.default_rng(self.seed)
        levels = tuple(
            random.integers(0, codec.config.codebook_size, self.frames * count).astype(np.int32)
            for count in codec.config.codes_per_frame
        )
        return Codes(levels, self.frames * FRAME - self.left_out, codec.sample_rate)

    def post(self, http: httpx.Client, codec: Codec) -> httpx.Response:
        codes = self.codes(codec)
        body = {
            "codes": to_layout(codes.levels, self.layout, config=codec.config),
            "layout": self.layout,
            "num_samples": codes.num_samples,
            "noise": self.noise,
            "seed": self.seed,
        }
        return http.post("/v1/decode", json=body, headers={"Accept": MEDIA_TYPES[self.form]})

    def check(self, answer: httpx.Response, codec: Codec) -> None:
        (audio,) = codec.decode([self.codes(codec)], self.noise, self.seed)
        assert answer.content == encode_bytes(audio, codec.sample_rate, self.form)


encodes = st.builds(
    Encode,
    length=st.sampled_from([1, 2, FRAME - 1, FRAME, FRAME + 1, WINDOW - 1, WINDOW, WINDOW + 1])
    | st.integers(1, FRAME)
    | st.integers(1, 3 * WINDOW // 2),
    rate=st.sampled_from([8000, 16000, 22050, 24000, 44100, 48000]),
    channels=st.integers(1, 3),
    container=st.sampled_from(["WAV", "FLAC"]),
    subtype=st.sampled_from(["PCM_16", "PCM_24"]),
    layout=layouts,
    seed=st.integers(0, 99),
)
decodes = st.builds(
    Decode,
    frames=st.sampled_from([1, 2, WINDOW // FRAME, WINDOW // FRAME + 1]) | st.integers(1, 70),
    left_out=st.integers(0, FRAME - 1),
    layout=layouts,
    noise=st.sampled_from(["seeded", "off"]),
    seed=st.integers(0, 2**63 - 1),
    form=st.sampled_from(["wav", "flac", "pcm"]),
)

SMALLEST: list[Encode | Decode] = [
    Encode(1, 24000, 1, "WAV", "PCM_16", "flat", 0),
    Decode(1, FRAME - 1, "flat", "off", 0, "pcm"),
]
LONGER: list[Encode | Decode] = [
    Encode(1000, 8000, 2, "FLAC", "PCM_24", "orpheus", 1),
    Decode(9, 0, "hierarchical", "seeded", 1, "wav"),
]


@pytest.fixture(scope="module")
def served(serve: Any, model_ref: str) -> Iterator[Any]:
    """A server whose metrics tell of this test alone."""
    with serve(model=model_ref, device="cpu") as running:
        yield running


@contextlib.contextmanager
def held_back(running: Any) -> Iterator[threading.Event]:
    """Keep the engine in its first batch until the event is set."""
    codec = running.service.models.codec
    entered, free, run = threading.Event(), threading.Event(), codec.run

    def held(steps: Any) -> None:
        entered.set()
        assert free.wait(300)
        run(steps)

    codec.run = held
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(SMALLEST[0].post, running.http, codec)
        try:
            assert entered.wait(300)
            yield free
        finally:
            free.set()
            del codec.run
        assert first.result(300).is_success


def shared(running: Any, kind: str) -> float:
    """Return how many batches of a kind had more than one window."""
    count = running.metric(f'snac_batch_items_count{{kind="{kind}"}}')
    alone = running.metric(f'snac_batch_items_bucket{{kind="{kind}",le="1.0"}}')
    return float(count - alone)


def test_what_is_computed_together_is_what_is_computed_alone(served: Any, codec: Codec) -> None:
    @settings(max_examples=12, deadline=None)
    @example(SMALLEST + LONGER)
    @given(st.lists(encodes | decodes, min_size=2, max_size=9))
    def check(requests: list[Encode | Decode]) -> None:
        def post(request: Encode | Decode) -> httpx.Response:
            answer = request.post(served.http, codec)
            assert answer.status_code == 200, answer.text
            return answer

        alone = [post(request) for request in requests]
        with ThreadPoolExecutor(len(requests)) as pool, held_back(served) as free:
            waiting = [pool.submit(post, request) for request in requests]
            wait_for(
                lambda: (
                    len(served.service.engine.scheduler.waiting) == len(requests)
                    or any(one.done() for one in waiting)
                )
            )
            free.set()
            together = [one.result(300) for one in waiting]
        for request, one, other in zip(requests, together, alone, strict=True):
            assert one.content == other.content
            request.check(one, codec)

    check()
    for kind in ("encode", "decode"):
        assert shared(served, kind) > 0
