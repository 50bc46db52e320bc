"""Encoding and decoding through a real server, in every form."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
import soundfile

from snac_core.audio import read
from snac_core.client import AsyncSnacClient, ProblemError, SnacClient
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.layouts import from_layout
from snac_core.types import Samples

SamplesOf = Callable[..., Samples]
WavOf = Callable[..., bytes]


def codes_of(answer: httpx.Response) -> Codes:
    assert answer.status_code == 200, answer.text
    return Codes.from_dict(answer.json())


def test_encode_gives_the_codecs_own_codes(
    running: Any, codec: Codec, samples_of: SamplesOf, wav_of: WavOf
) -> None:
    samples = samples_of(1.7)
    answer = running.http.post("/v1/encode", content=wav_of(samples))
    assert codes_of(answer) == codec.encode([samples])[0]
    body = answer.json()
    assert body["layout"] == "hierarchical/1"
    assert [len(level) for level in body["codes"]] == [20, 40, 80]
    assert body["duration"] == pytest.approx(1.7)
    assert body["model"] == {"version": codec.version, "token_space": codec.token_space}
    assert answer.headers["X-Model-Version"] == codec.version
    assert answer.headers["X-Token-Space"] == codec.token_space
    stages = {part.split(";")[0] for part in answer.headers["Server-Timing"].split(", ")}
    assert {"read", "queue", "inference", "write"} <= stages


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "audio/wav"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
)
def test_a_raw_body_needs_no_particular_content_type(
    running: Any, codec: Codec, samples_of: SamplesOf, wav_of: WavOf, headers: dict[str, str]
) -> None:
    samples = samples_of(0.5)
    answer = running.http.post("/v1/encode", content=wav_of(samples), headers=headers)
    assert codes_of(answer) == codec.encode([samples])[0]


def test_plain_curl_works(
    running: Any, codec: Codec, samples_of: SamplesOf, wav_of: WavOf, tmp_path: Path
) -> None:
    samples = samples_of(0.5)
    (tmp_path / "speech.wav").write_bytes(wav_of(samples))
    encoded = subprocess.run(
        ["curl", "-sf", "--data-binary", "@speech.wav", f"{running.url}/v1/encode"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    ).stdout
    assert Codes.from_json(encoded) == codec.encode([samples])[0]
    (tmp_path / "codes.json").write_bytes(encoded)
    decoded = subprocess.run(
        ["curl", "-sf", "--data-binary", "@codes.json", f"{running.url}/v1/decode"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    ).stdout
    assert len(read(decoded, 24000)) == len(samples)


def test_a_multipart_file_and_another_rate_and_channels(
    running: Any, codec: Codec, samples_of: SamplesOf, wav_of: WavOf
) -> None:
    stereo = np.stack([samples_of(1.0, 1), samples_of(1.0, 2)], axis=1)
    wav = wav_of(stereo, 16000)
    answer = running.http.post("/v1/encode", files={"file": ("a.wav", wav)})
    assert codes_of(answer) == codec.encode([read(wav, 24000)])[0]


@pytest.mark.parametrize("how", [{"format": "FLAC", "subtype": "PCM_16"}, {"format": "MP3"}])
def test_compressed_formats(
    running: Any, codec: Codec, samples_of: SamplesOf, wav_of: WavOf, how: dict[str, str]
) -> None:
    file = wav_of(samples_of(1.0), **{"subtype": None, **how})
    answer = running.http.post("/v1/encode", content=file)
    assert codes_of(answer) == codec.encode([read(file, 24000)])[0]


def test_npz_and_msgpack_carry_the_same_codes(
    running: Any, samples_of: SamplesOf, wav_of: WavOf
) -> None:
    wav = wav_of(samples_of(1.0))
    expected = codes_of(running.http.post("/v1/encode", content=wav))
    npz = running.http.post("/v1/encode", content=wav, headers={"Accept": "application/x-npz"})
    assert npz.headers["Content-Type"] == "application/x-npz"
    assert Codes.from_npz(npz.content) == expected
    packed = running.http.post("/v1/encode", content=wav, headers={"Accept": "application/msgpack"})
    assert Codes.from_msgpack(packed.content) == expected
    assert msgpack.unpackb(packed.content)["model"]["version"] == npz.headers["X-Model-Version"]


@pytest.mark.parametrize(
    "query", ["layout=flat", "layout=orpheus", "layout=orpheus/1&base=1000", "layout=mini-omni"]
)
@pytest.mark.parametrize("media", ["application/json", "application/msgpack"])
def test_an_encode_answer_posts_back_whole_in_every_layout(
    running: Any, codec: Codec, samples_of: SamplesOf, wav_of: WavOf, query: str, media: str
) -> None:
    samples = samples_of(1.0)
    expected = codec.encode([samples])[0]
    answer = running.http.post(
        f"/v1/encode?{query}", content=wav_of(samples), headers={"Accept": media}
    )
    body = answer.json() if media == "application/json" else msgpack.unpackb(answer.content)
    levels = from_layout(body["codes"], body["layout"], config=codec.config, base=body.get("base"))
    assert all(np.array_equal(a, b) for a, b in zip(levels, expected.levels, strict=True))
    decoded = running.http.post(
        "/v1/decode", content=answer.content, headers={"Content-Type": media}
    )
    assert decoded.status_code == 200, decoded.text
    assert int(decoded.headers["X-Num-Samples"]) == len(samples)
    assert np.allclose(read(decoded.content, 24000), codec.decode([expected])[0], atol=1e-4)


def test_decode_answers_every_audio_format(
    running: Any, codec: Codec, samples_of: SamplesOf
) -> None:
    codes = codec.encode([samples_of(1.0)])[0]
    whole = codec.decode([codes])[0]
    bodies = {}
    for media in ("audio/wav", "audio/flac", "audio/ogg", "audio/pcm", "*/*"):
        answer = running.http.post(
            "/v1/decode",
            content=codes.to_npz(),
            headers={"Content-Type": "application/x-npz", "Accept": media},
        )
        assert answer.status_code == 200, answer.text
        named = {"*/*": "audio/wav", "audio/pcm": "audio/pcm;rate=24000;channels=1"}
        assert answer.headers["Content-Type"] == named.get(media, media)
        assert answer.headers["X-Num-Samples"] == "24000"
        assert answer.headers["X-Sample-Rate"] == "24000"
        bodies[media] = answer.content
    assert np.allclose(read(bodies["audio/wav"], 24000), whole, atol=1e-4)
    assert np.array_equal(read(bodies["audio/flac"], 24000), read(bodies["audio/wav"], 24000))
    assert soundfile.info(io.BytesIO(bodies["audio/ogg"])).subtype == "OPUS"
    pcm = np.frombuffer(bodies["audio/pcm"], "<i2") / 32768
    assert np.array_equal(pcm.astype(np.float32), read(bodies["audio/wav"], 24000))
    assert bodies["*/*"] == bodies["audio/wav"]


def test_decode_options_by_body_and_by_query(
    running: Any, codec: Codec, samples_of: SamplesOf
) -> None:
    codes = codec.encode([samples_of(1.0)])[0]

    def decode(query: str = "", **fields: Any) -> Samples:
        body = {"codes": codes.to_dict()["codes"], **fields}
        answer = running.http.post(f"/v1/decode{query}", json=body)
        assert answer.status_code == 200, answer.text
        return read(answer.content, 24000)

    assert len(decode()) == 12 * 2048
    assert len(decode(num_samples=5000)) == len(decode("?num_samples=5000")) == 5000
    assert np.array_equal(decode(seed=7), decode("?seed=7"))
    assert not np.array_equal(decode(seed=7), decode(seed=8))
    assert np.array_equal(decode(noise="off", seed=1), decode("?noise=off", seed=2))


def test_codes_of_another_token_space_are_refused(
    running: Any, codec: Codec, samples_of: SamplesOf, wav_of: WavOf
) -> None:
    answer = running.http.post("/v1/encode", content=wav_of(samples_of(0.3))).json()
    answer["model"]["token_space"] = "0123456789ab"
    refused = running.http.post("/v1/decode", json=answer)
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:snac:problem:token-space"
    assert codec.token_space in refused.json()["detail"]
    named = running.http.post(
        "/v1/decode?token_space=0123456789ab", json={"codes": answer["codes"]}
    )
    assert named.status_code == 409


def test_encode_batch_answers_in_order_and_one_bad_file_fails_alone(
    running: Any, codec: Codec, samples_of: SamplesOf, wav_of: WavOf
) -> None:
    clips = [samples_of(seconds, seed) for seed, seconds in enumerate((2.0, 0.3, 1.1))]
    files = [("files", (f"{i}.wav", wav_of(clip))) for i, clip in enumerate(clips)]
    files.insert(1, ("files", ("broken.wav", b"RIFF, but not really")))
    answer = running.http.post("/v1/encode/batch", files=files)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [item["name"] for item in results] == ["0.wav", "broken.wav", "1.wav", "2.wav"]
    assert results[1]["problem"]["status"] == 400
    found = [Codes.from_dict(item["result"]) for item in results if "result" in item]
    assert found == codec.encode(clips)

    lines = running.http.post(
        "/v1/encode/batch", files=files, headers={"Accept": "application/x-ndjson"}
    )
    assert lines.headers["Content-Type"] == "application/x-ndjson"
    streamed = [json.loads(line) for line in lines.text.splitlines()]
    assert sorted(item["index"] for item in streamed) == [0, 1, 2, 3]
    for item in streamed:
        expected = results[item["index"]]
        assert item.get("result") == expected.get("result")
        assert ("problem" in item) == ("problem" in expected)


def test_decode_batch_as_json_and_zip(running: Any, codec: Codec, samples_of: SamplesOf) -> None:
    codes = codec.encode([samples_of(0.5), samples_of(1.0)])
    items = [codes[0].to_dict(), {"codes": [[9999]]}, codes[1].to_dict(), "codes"]
    answer = running.http.post("/v1/decode/batch", json={"items": items})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [item.get("num_samples") for item in results] == [12000, None, 24000, None]
    assert [item["problem"]["status"] for item in results if "problem" in item] == [422, 422]
    audio = read(base64.b64decode(results[2]["audio"]), 24000)
    assert np.allclose(audio, codec.decode([codes[1]])[0], atol=1e-4)

    zipped = running.http.post(
        "/v1/decode/batch?format=flac", json={"items": items}, headers={"Accept": "application/zip"}
    )
    packed = msgpack.packb({"items": [msgpack.unpackb(codes[1].to_msgpack())]})
    answer = running.http.post(
        "/v1/decode/batch", content=packed, headers={"Content-Type": "application/msgpack"}
    )
    assert answer.json()["results"][0]["audio"] == results[2]["audio"]

    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        names = ["0000.flac", "0001.problem.json", "0002.flac", "0003.problem.json"]
        assert archive.namelist() == names
        assert np.array_equal(read(archive.read("0002.flac"), 24000), audio)


def test_reconstruct_says_how_close_it_is(
    running: Any, codec: Codec, samples_of: SamplesOf, wav_of: WavOf
) -> None:
    samples = samples_of(1.5)
    answer = running.http.post("/v1/reconstruct", content=wav_of(samples))
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Bitrate"] == "984"
    float(answer.headers["X-SI-SDR"])
    float(answer.headers["X-STOI"])
    assert float(answer.headers["X-Log-Mel-Distance"]) > 0
    expected = codec.decode(codec.encode([samples]))[0]
    assert np.allclose(read(answer.content, 24000), expected, atol=1e-4)


def test_the_client_takes_bytes_and_arrays(
    running: Any, codec: Codec, samples_of: SamplesOf, wav_of: WavOf
) -> None:
    samples = samples_of(1.0)
    (expected,) = codec.encode([samples])
    with SnacClient(running.url) as client:
        assert client.encode(wav_of(samples)).codes == expected
        encoded = client.encode(samples, 24000)
        assert encoded.codes == expected
        assert (encoded.version, encoded.token_space) == (codec.version, codec.token_space)
        audio = client.decode(encoded.codes, encoded.token_space, seed=3)
        assert np.allclose(audio, codec.decode([expected], seed=3)[0], atol=1e-4)
        with pytest.raises(ProblemError, match="token space") as caught:
            client.decode(encoded.codes, "0123456789ab")
        assert caught.value.status == 409


def test_the_async_client_does_the_same(running: Any, codec: Codec, samples_of: SamplesOf) -> None:
    async def round_trip() -> tuple[Codes, Samples]:
        async with AsyncSnacClient(running.url) as client:
            encoded = await client.encode(samples_of(0.4), 24000)
            return encoded.codes, await client.decode(encoded.codes)

    codes, audio = asyncio.run(round_trip())
    assert codes == codec.encode([samples_of(0.4)])[0]
    assert len(audio) == len(samples_of(0.4))
