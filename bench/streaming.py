"""Streams against whole clips: counted work, streams that a machine carries, and latency.

python bench/streaming.py --preset snac_24khz --rounds 3

Work and speed are those of random weights in the preset's shape. What less look-ahead costs
in quality, and how soon a service sends audio, is measured with the weights of ``--model``.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import torch
from machine import describe
from running import service
from torch.utils.flop_counter import FlopCounterMode

import snac_core
from snac_core.client import SnacClient
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.config import PRESETS, SnacConfig
from snac_core.layouts import to_layout
from snac_core.model import SNAC
from snac_core.store.identity import token_space
from snac_core.streaming import StreamingDecoder, StreamingEncoder, lookahead
from snac_core.types import Samples


def random_codec(config: SnacConfig, device: str) -> Codec:
    """Return a codec whose weights are random."""
    torch.manual_seed(0)
    model = SNAC(config)
    space = token_space(config, model.state_dict())
    return Codec(model, version="random", token_space=space, device=device)


def speech_like(seconds: float, rate: int) -> Samples:
    """Return modulated harmonics and noise."""
    random = np.random.default_rng(0)
    time_axis = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.3 * time_axis)
    voice = sum(np.sin(2 * np.pi * k * pitch * time_axis) / k for k in range(1, 6))
    loudness = 0.1 * (1 + np.sin(2 * np.pi * 3 * time_axis))
    audio = loudness * voice + 0.01 * random.standard_normal(len(time_axis))
    return audio.astype(np.float32)


def random_codes(config: SnacConfig, steps: int) -> Codes:
    """Return random codes that fill ``steps`` steps of a stream."""
    random = np.random.default_rng(0)
    samples = steps * config.pad_multiple
    levels = tuple(
        random.integers(0, config.codebook_size, samples // (config.hop * stride)).astype(np.int32)
        for stride in config.vq_strides
    )
    return Codes(levels, samples, config.sampling_rate)


def streams_with_input(codec: Codec, kind: str, count: int, steps: int) -> list[Any]:
    """Return ``count`` streams that have the input of ``steps`` steps."""
    codes = random_codes(codec.config, steps)
    if kind == "decode":
        decoders = [StreamingDecoder(codec, seed=seed) for seed in range(count)]
        for decoder in decoders:
            decoder.push(codes.levels)
        return decoders
    encoders = [StreamingEncoder(codec) for _ in range(count)]
    for encoder in encoders:
        encoder.push(speech_like(codes.duration, codec.sample_rate))
    return encoders


def run_steps(codec: Codec, streams: list[Any], count: int) -> None:
    """Run ``count`` steps of every stream, those of all streams as one batch."""
    for _ in range(count):
        jobs = [stream.take_step() for stream in streams]
        codec.run([step for job in jobs if job is not None for step in job.steps])


def multiply_adds(run: Callable[[], object]) -> float:
    """Return how many multiply-adds ``run`` counts."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 2


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that ``run`` takes, and those of all cores that it uses."""
    started, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - started, time.process_time() - used


def print_lookahead() -> None:
    """Print how far results lie behind their input."""
    print("| look-ahead of | one step | decode | encode |")
    print("|---|---|---|---|")
    for name, config in PRESETS.items():
        cells = [
            f"{samples} samples = {1000 * samples / config.sampling_rate:.0f} ms"
            for samples in (config.pad_multiple, lookahead(config), lookahead(config, "encode"))
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def print_work(codec: Codec) -> None:
    """Print counted multiply-adds per second of audio."""
    config, steps = codec.config, 8
    codes = random_codes(config, steps)
    wave = speech_like(codes.duration, config.sampling_rate)
    print("\n| billion multiply-adds per second of audio | stream | whole | ratio |")
    print("|---|---|---|---|")
    # Only what torch itself computes is counted.
    written = Codec(
        codec.model, version="random", token_space="random", device=codec.device, compile="off"
    )
    decoder, encoder = StreamingDecoder(written), StreamingEncoder(written)
    decoder.push(codes.levels)
    encoder.push(wave)
    kinds: dict[str, tuple[StreamingDecoder | StreamingEncoder, Callable[[], object]]] = {
        "decode": (decoder, lambda: written.decode([codes])),
        "encode": (encoder, lambda: written.encode([wave])),
    }
    for kind, (stream, whole) in kinds.items():
        each: list[float] = []
        while (job := stream.take_step()) is not None:
            due = job.steps
            each.append(multiply_adds(lambda due=due: written.run(due)))  # type: ignore[misc]
        streamed = sum(each) / codes.duration / 1e9
        at_once = multiply_adds(whole) / codes.duration / 1e9
        print(f"| {kind} | {streamed:.2f} | {at_once:.2f} | {streamed / at_once:.3f} |")


def print_streams(codec: Codec, kind: str, sizes: list[int], rounds: int) -> None:
    """Print how many real-time streams the machine carries, and whole clips beside them."""
    config = codec.config
    print(
        f"\n| streams in a batch | {kind} step | real-time streams | whole clip, x real time |",
        end="",
    )
    print(" core-seconds per second of audio, stream / whole |")
    print("|---|---|---|---|---|")
    clip = random_codes(config, round(2 * config.sampling_rate / config.pad_multiple))
    wave = speech_like(clip.duration, config.sampling_rate)
    run_whole: Callable[[], object] = (
        functools.partial(codec.decode, [clip])
        if kind == "decode"
        else functools.partial(codec.encode, [wave])
    )
    for size in sizes:
        per_round = max(2, 16 // size)
        streams = streams_with_input(codec, kind, size, 4 + per_round * (rounds + 1))
        run_steps(codec, streams, 4)
        run_whole()
        steps, wholes = [], []
        for _ in range(rounds):
            steps.append(seconds(functools.partial(run_steps, codec, streams, per_round)))
            wholes.append(seconds(run_whole))
        step_audio = size * config.pad_multiple / config.sampling_rate
        step, step_cores = np.median(steps, axis=0) / per_round
        whole, whole_cores = np.median(wholes, axis=0) / clip.duration
        print(
            f"| {size} | {1000 * step:.0f} ms | {step_audio / step:.1f} | {1 / whole:.1f} "
            f"| {step_cores / step_audio:.2f} / {whole_cores:.2f} |"
        )


def print_latency(codec: Codec) -> None:
    """Print what audio that leaves early differs by."""
    config = codec.config
    (codes,) = codec.encode([speech_like(5.0, config.sampling_rate)])
    (expected,) = codec.decode([codes])
    frame = 1000 * config.frame_samples / config.sampling_rate
    print(f"\n| look-ahead ({codec.version}) | first audio after | SNR against offline | largest |")
    print("|---|---|---|---|")
    exact = -(-lookahead(config) // config.frame_samples)
    for frames in [*range(exact + 1), None]:
        decoder = StreamingDecoder(codec, lookahead_frames=frames)
        # What leaves before the end is known; the rest is exact anyway.
        audio = decoder.feed(codes.levels)[: len(expected)].astype(np.float64)
        error = audio - expected[: len(audio)]
        power, off = np.square(audio).sum(), np.square(error).sum()
        snr = f"{10 * np.log10(power / off):.0f} dB" if off else "identical"
        behind = lookahead(config) if frames is None else frames * config.frame_samples
        step = config.pad_multiple
        first = (min(behind, lookahead(config)) // step + 1) * step / config.frame_samples
        name = "exact" if frames is None else f"{frames} frames"
        print(
            f"| {name} | {first:.0f} frames = {first * frame:.0f} ms of codes | {snr} "
            f"| {np.abs(error).max():.1e} |"
        )


def print_first_audio(model: str, seconds: float, rounds: int) -> None:
    """Print how soon a service answers, and what comes against what is decoded offline."""
    codec = snac_core.load(model, device="cpu")
    (codes,) = codec.encode([speech_like(seconds, codec.sample_rate)])
    (expected,) = codec.decode([codes])
    tokens = to_layout(codes.levels, "flat", config=codec.config)
    body, pcm = codes.to_dict(), {"Accept": "audio/pcm"}
    waits: dict[str, list[float]] = {}
    errors: dict[str, float] = {}

    def note(name: str, wait: float, audio: npt.NDArray[np.floating]) -> None:
        waits.setdefault(name, []).append(wait)
        errors[name] = max(errors.get(name, 0.0), float(np.abs(audio - expected).max()))

    with (
        service("--model", model) as (url, _),
        httpx.Client(base_url=url, timeout=600) as http,
        SnacClient(url) as client,
    ):
        for _ in range(rounds):
            for path in ("/v1/decode", "/v1/decode?stream=true"):
                started = time.perf_counter()
                with http.stream("POST", path, json=body, headers=pcm) as answer:
                    parts = answer.iter_raw()
                    data = next(parts)
                    wait = time.perf_counter() - started
                    data += b"".join(parts)
                note(f"POST {path}", wait, np.frombuffer(data, "<i2") / 32768)
            started = time.perf_counter()
            stream = client.stream_decode([tokens], "flat", num_samples=codes.num_samples)
            audio = [next(stream)]
            wait = time.perf_counter() - started
            note("WS /v1/stream/decode", wait, np.concatenate([*audio, *stream]))
    print(
        f"\n| {seconds:g} s of codes, sent at once | first audio | largest error |\n|---|---|---|"
    )
    for name, taken in waits.items():
        print(f"| `{name}` | {1000 * np.median(taken):.0f} ms | {errors[name]:.1e} |")


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=list(PRESETS), default="snac_24khz")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("## streaming\n")
    print(
        f"{describe()}; {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {options.device}, {options.preset}\n"
    )
    print_lookahead()
    codec = random_codec(PRESETS[options.preset], options.device)
    print_work(codec)
    for kind in ("decode", "encode"):
        print_streams(codec, kind, options.batches, options.rounds)
    print_latency(snac_core.load(options.model, device=options.device))
    print_first_audio(options.model, 10.0, options.rounds)


if __name__ == "__main__":
    main()
