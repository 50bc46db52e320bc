"""A tiny model, recordings to encode, and Ray on this machine."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import soundfile
import torch

from bulk.encoder import Encoder
from bulk.output import RowOptions, RowWriter
from bulk.plan import Done, make_plan
from bulk.reading import ReadOptions, read_group
from bulk.sources import Options, find_source
from snac_core import audio
from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.model import SNAC
from snac_core.store import checkpoint

CONFIG = SnacConfig(encoder_dim=8, decoder_dim=32)
RECORDINGS = {
    "a/short.wav": (24000, 1, 700),
    "a/stereo.wav": (16000, 2, 12000),
    "b/c/UPPER.WAV": (8000, 1, 8000),
    "b/long.flac": (24000, 1, 60000),
}
"""Sample rate, channels and samples of each."""

# Ray runs its workers at the lowest priority, where a busy machine hardly lets them begin.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it

NOTHING_DONE = Done(np.empty(0, np.uint64), np.empty(0, np.uint64))


def record(folder: Path, name: str, rate: int, channels: int, samples: int, seed: int = 0) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(samples + seed).normal(0, 0.1, (samples, channels))
    soundfile.write(path, noise, rate)
    return path


def make_model(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    folder.mkdir()
    weights = {name: tensor.contiguous() for name, tensor in SNAC(CONFIG).state_dict().items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()), "utf-8")
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def encoder(model: Path) -> Encoder:
    return Encoder(checkpoint.read(model), "cpu")


@pytest.fixture(scope="session")
def codec(encoder: Encoder) -> Codec:
    return encoder.codec


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, shape in RECORDINGS.items():
        record(folder, name, *shape)
    (folder / "broken.wav").write_bytes(b"RIFF, but no more than that")
    (folder / "notes.txt").write_text("not a recording", "utf-8")
    return folder


Encode = Callable[..., tuple[pa.Table, pa.Table]]


@pytest.fixture(scope="session")
def encode_here(encoder: Encoder, codec: Codec) -> Encode:
    """Encode an input in this process: what readers, codecs and writers do, without Ray."""

    def encode(
        place: str | Path,
        source: Options | None = None,
        rows: RowOptions | None = None,
        clips: int = 1000,
        **reading: object,
    ) -> tuple[pa.Table, pa.Table]:
        source = source or Options()
        plan = make_plan(find_source(str(place), source), NOTHING_DONE)
        column = source.audio_column or "audio"
        options = ReadOptions(CONFIG, 8 * 24000, audio_column=column, **reading)  # type: ignore[arg-type]
        writer = RowWriter(
            CONFIG, codec.version, codec.token_space, plan.carried, rows or RowOptions()
        )
        with contextlib.closing(plan):
            made = [
                writer.rows(group, [encoder.encode(batch) for batch in read_group(group, options)])
                for group in plan.groups(clips)
            ]
        return pa.concat_tables(one for one, _ in made), pa.concat_tables(two for _, two in made)

    return encode


@pytest.fixture(scope="session")
def alone(codec: Codec) -> Callable[..., list[list[int]]]:
    """Encode one recording as a library call does, and return its levels."""

    def encode(source: Path | bytes, **options: object) -> list[list[int]]:
        samples = audio.read(source, codec.sample_rate, **options)  # type: ignore[arg-type]
        (codes,) = codec.encode([samples])
        return [level.tolist() for level in codes.levels]

    return encode


def levels(row: dict[str, object]) -> list[object]:
    """Return the levels of one row."""
    return [row[f"level_{level}"] for level in range(3)]


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray on this machine, once for all tests that need it."""
    import ray

    from bulk import cluster

    cluster.connect(None, num_cpus=2, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()
