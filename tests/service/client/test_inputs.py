"""What the Python client takes, against the running server."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import service.client
import snac_core.client
from snac_core.client import AsyncSnacClient, ProblemError, SnacClient
from snac_core.client.inputs import frames_of
from snac_core.codec import Codec
from snac_core.layouts import to_layout

RATE = 24000


@pytest.fixture
def client(running: Any) -> Iterator[SnacClient]:
    with SnacClient(running.url, timeout=60) as client:
        yield client


def test_the_service_hands_on_the_same_client() -> None:
    assert service.client.SnacClient is snac_core.client.SnacClient
    assert service.client.__all__ == snac_core.client.__all__


def test_a_recording_may_come_in_any_form(
    client: SnacClient, codec: Codec, samples_of: Any, wav_of: Any, tmp_path: Path
) -> None:
    wav = wav_of(samples_of(0.3, 1))
    path = tmp_path / "voice.wav"
    path.write_bytes(wav)
    samples, _ = soundfile.read(path, dtype="float32")
    (expected,) = codec.encode([samples])
    for file in (wav, path, str(path), io.BytesIO(wav)):
        assert client.encode(file).codes == expected
    forms = (
        samples,
        samples.tolist(),
        torch.from_numpy(samples),
        samples[None],
        samples[:, None],
        samples[None, None],
        np.stack([samples, samples], 1),
        np.stack([samples, samples]),
    )
    for form in forms:
        assert client.encode(form, RATE).codes == expected, np.shape(form)
    integers = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    (scaled,) = codec.encode([integers.astype(np.float32) / 32768])
    assert client.encode(integers, RATE).codes == scaled
    assert client.encode(integers.astype(np.int32) << 16, RATE).codes == scaled
    one_of_two = np.stack([samples, -samples], 1)
    assert client.encode(one_of_two, RATE, channel=0).codes == expected


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((4, 5)), r"\(4, 5\)"),
        (np.zeros((100, 200)), r"\(100, 200\)"),
        (np.zeros((2, 2, 900)), r"\(2, 2, 900\)"),
        (np.zeros(9, np.int64), r"int64 and shape \(9,\)"),
        (np.zeros(9, bool), r"bool and shape \(9,\)"),
        (["a", "b"], "no array of numbers"),
    ],
)
def test_samples_of_an_unclear_shape_or_type_are_refused(samples: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frames_of(samples)


def test_tokens_in_a_layout_go_there_and_back(
    client: SnacClient, codec: Codec, samples_of: Any
) -> None:
    samples = samples_of(0.5, 3)
    (codes,) = codec.encode([samples])
    expected = codec.decode([codes], seed=1)[0]
    for layout in ("orpheus", "mini-omni", "hierarchical"):
        made = client.encode(samples, RATE, layout=layout)
        assert made.tokens == to_layout(codes.levels, layout, config=codec.config)
        assert made.token_space == codec.token_space
        np.testing.assert_allclose(client.decode(made, seed=1), expected, atol=1e-4)
    flat = np.array(client.encode(samples, RATE, layout="flat").tokens)
    for tokens in (flat, torch.from_numpy(flat), flat.tolist()):
        audio = client.decode(tokens, seed=1, layout="flat", num_samples=len(samples))
        np.testing.assert_allclose(audio, expected, atol=1e-4)


def test_a_token_beyond_32_bits_is_named_and_never_wrapped(client: SnacClient) -> None:
    wrong = np.array([2**32 + 5, *range(1, 7)])
    with pytest.raises(ProblemError, match=str(2**32 + 5)):
        client.decode(wrong, layout="flat")
    with pytest.raises(ProblemError, match=str(2**32 + 5)):
        list(client.stream_decode([wrong], layout="flat"))


def test_reconstruct_models_and_health(client: SnacClient, codec: Codec, samples_of: Any) -> None:
    samples = samples_of(0.6, 4)
    made = client.reconstruct(samples, RATE, seed=2)
    expected = codec.decode(codec.encode([samples]), seed=2)[0]
    np.testing.assert_allclose(made.samples, expected, atol=1e-4)
    assert made.sample_rate == RATE
    assert made.quality.keys() == {"bitrate", "si_sdr", "stoi", "log_mel_distance"}
    assert client.health()["status"] == "ready"
    assert codec.version in {model["version"] for model in client.models()}
    assert client.model()["token_space"] == codec.token_space


def test_batches_over_the_limits_are_divided_and_kept_in_order(
    serve: Any, model_ref: str, codec: Codec, samples_of: Any
) -> None:
    clips = [samples_of(0.1 + 0.05 * number, number) for number in range(7)]
    expected = codec.encode(clips)
    sources: list[Any] = [*clips[:3], b"no sound", *clips[3:]]
    with serve(model=model_ref, device="cpu", max_files=3) as running:
        with SnacClient(running.url) as client:
            found = client.encode_batch(sources, RATE)
            audio = client.decode_batch(expected)

        async def both() -> tuple[list[Any], dict[str, Any]]:
            async with AsyncSnacClient(running.url) as client:
                return await client.encode_batch(sources, RATE), await client.health()

        again, health = asyncio.run(both())
    assert health["status"] == "ready"
    for results in (found, again):
        assert isinstance(results.pop(3), ProblemError)
        assert [one.codes for one in results if not isinstance(one, ProblemError)] == expected
    for one, codes in zip(audio, expected, strict=True):
        assert not isinstance(one, ProblemError)
        assert len(one) == codes.num_samples
