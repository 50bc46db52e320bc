"""The Python clients: streams, batches and retries, and the example of docs/streaming.md."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect

from snac_core.client import (
    AsyncSnacClient,
    Encoded,
    ProblemError,
    SnacClient,
    StreamClosedError,
)
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.layouts import LAYOUTS, to_layout

ROOT = Path(__file__).parents[3]


@pytest.fixture
def client(running: Any) -> Iterator[SnacClient]:
    with SnacClient(running.url, timeout=60) as client:
        yield client


@pytest.fixture
def speech(codec: Codec, samples_of: Any) -> tuple[Any, Codes]:
    samples = samples_of(0.8, 2)
    return samples, codec.encode([samples])[0]


def whole_frames(codes: Codes) -> Codes:
    return Codes(codes.levels, len(codes.levels[0]) * 2048, codes.sample_rate)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_become_audio_and_audio_tokens(
    client: SnacClient, codec: Codec, speech: Any, layout: str
) -> None:
    samples, codes = speech
    tokens = to_layout(codes.levels, layout, config=codec.config)
    items = [tokens] if isinstance(tokens[0], list) else tokens
    stream = client.stream_decode(iter(items), layout, num_samples=codes.num_samples, seed=4)
    audio = np.concatenate(list(stream))
    assert audio.dtype == np.float32
    assert np.abs(audio - codec.decode([codes], seed=4)[0]).max() <= 1e-5
    assert stream.ready is not None
    assert stream.done is not None
    assert stream.ready["model"] == stream.done["model"]
    parts = list(client.stream_encode(np.array_split(samples, 7), 24000, layout))
    if isinstance(tokens[0], list):
        joined = [np.concatenate(lanes).tolist() for lanes in zip(*parts, strict=True)]
    else:
        joined = [token for part in parts for token in part]
    assert joined == tokens


def test_arrays_are_tokens_too(client: SnacClient, codec: Codec, speech: Any) -> None:
    _, codes = speech
    expected = codec.decode([whole_frames(codes)])[0]
    flat = np.array(to_layout(codes.levels, "flat", config=codec.config))
    for layout, items in (("flat", [flat[:11], flat[11:]]), ("hierarchical", [codes.levels])):
        audio = np.concatenate(list(client.stream_decode(items, layout)))
        assert np.abs(audio - expected).max() <= 1e-5


def test_asyncio_streams(running: Any, codec: Codec, speech: Any) -> None:
    samples, codes = speech
    tokens = to_layout(codes.levels, "orpheus", config=codec.config)

    async def spoken() -> AsyncIterator[int]:
        for token in tokens:
            await asyncio.sleep(0)
            yield token

    async def main() -> tuple[list[Any], list[Any], list[Any]]:
        async with AsyncSnacClient(running.url, timeout=60) as client:
            stream = client.stream_decode(spoken(), "orpheus", noise="off")
            audio = [part async for part in stream]
            assert stream.done is not None
            encoding = client.stream_encode([samples], 24000, "flat")
            coded = [part async for part in encoding]
            both = await client.encode_batch([samples, b"no audio"], 24000)
            return audio, coded, [*both, *await client.decode_batch([codes])]

    audio, coded, batch = asyncio.run(main())
    expected = codec.decode([whole_frames(codes)], noise="off")[0]
    assert np.abs(np.concatenate(audio) - expected).max() <= 1e-5
    assert np.concatenate(coded).tolist() == to_layout(codes.levels, "flat", config=codec.config)
    assert isinstance(batch[0], Encoded)
    assert batch[0].codes == codes
    assert isinstance(batch[1], ProblemError)
    assert len(batch[2]) == codes.num_samples


def test_batches_keep_order_and_carry_problems(
    client: SnacClient, codec: Codec, samples_of: Any, wav_of: Any
) -> None:
    clips = [samples_of(0.2 + 0.1 * index, index) for index in range(3)]
    answers = client.encode_batch([clips[0], wav_of(clips[1]), b"noise", clips[2]], 24000)
    good = [answer for answer in answers if isinstance(answer, Encoded)]
    assert [answer.codes for answer in good] == codec.encode(clips)
    assert isinstance(answers[2], ProblemError)
    assert answers[2].status == 400
    other = Codes.from_dict(
        {"codes": [[4095], [1, 2], [1, 2, 3, 4]], "num_samples": 2048, "sample_rate": 44100}
    )
    audio = client.decode_batch([*(answer.codes for answer in good), other], noise="off")
    for samples, expected in zip(
        audio, codec.decode(codec.encode(clips), noise="off"), strict=False
    ):
        assert np.abs(np.asarray(samples) - expected).max() <= 1 / 32768
    assert isinstance(audio[3], ProblemError)
    assert audio[3].problem["type"] == "urn:snac:problem:invalid-codes"


def test_problems_of_a_stream_are_raised_where_audio_is_awaited(client: SnacClient) -> None:
    with pytest.raises(ProblemError, match="index 8") as raised:
        list(client.stream_decode([0] * 8 + [4096], "flat"))
    assert (raised.value.status, raised.value.problem["value"]) == (422, 4096)
    with pytest.raises(ProblemError, match="token space"):
        list(client.stream_decode([], "flat", token_space="another"))


def test_what_the_tokens_raise_is_raised(running: Any, client: SnacClient) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("the language model fell over")

    with pytest.raises(LookupError, match="fell over"):
        list(client.stream_decode(broken(), "flat"))

    async def main() -> None:
        async with AsyncSnacClient(running.url) as asynchronous:
            async for _ in asynchronous.stream_decode(broken(), "flat"):
                pass

    with pytest.raises(LookupError, match="fell over"):
        asyncio.run(main())


def test_leaving_a_stream_ends_it(running: Any, client: SnacClient) -> None:
    def endless() -> Iterator[list[int]]:
        while True:
            yield [0] * 7

    stream = client.stream_decode(endless(), "flat")
    assert len(next(stream)) > 0
    stream.close()
    until = time.monotonic() + 300
    while running.metric('snac_streams_open{kind="decode"}'):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_full_service_is_tried_again_and_a_stopping_one_is_told(
    serve: Any, model_ref: str
) -> None:
    with serve(model=model_ref, device="cpu", max_streams=1) as running:
        holder = threading.Event()

        def hold() -> None:
            with connect(
                f"{running.url.replace('http', 'ws')}/v1/stream/decode?layout=flat"
            ) as one:
                one.recv(300)
                holder.set()
                refused = 'outcome="overloaded"} [1-9]'
                while not re.search(refused, running.http.get("/metrics").text):
                    time.sleep(0.01)

        first = threading.Thread(target=hold)
        first.start()
        assert holder.wait(300)
        impatient = SnacClient(running.url, retries=0)
        patient = SnacClient(running.url, retries=20)
        with impatient, patient:
            with pytest.raises(ProblemError) as raised:
                list(impatient.stream_decode([], "flat"))
            assert raised.value.status == 429
            assert sum(map(len, patient.stream_decode([[0] * 7], "flat"))) == 2048
            first.join()

            def slow() -> Iterator[list[int]]:
                yield [0] * 7
                running.service.streams.all[0].stop()
                yield [0] * 7
                assert finished.wait(300)

            finished = threading.Event()
            with pytest.raises((ProblemError, StreamClosedError), match=r"503|1012"):
                list(patient.stream_decode(slow(), "flat"))
            finished.set()


def test_the_example_of_the_page_runs(
    running: Any, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "streaming.md").read_text("utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) >= 2
    monkeypatch.chdir(tmp_path)
    for example in examples:
        source = example.replace("http://127.0.0.1:8000", running.url).replace(
            "ws://127.0.0.1:8000", running.url.replace("http", "ws")
        )
        exec(compile(source, "docs/streaming.md", "exec"), {"__name__": "example"})
    assert list(tmp_path.glob("*.wav"))
