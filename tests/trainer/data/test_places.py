"""Recordings that lie elsewhere, or in other files than their own."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.trainer.conftest import RATE, record, voice
from trainer.data.fingerprint import fingerprint, same_validation
from trainer.data.places import files_under
from trainer.data.recording_index import RecordingIndex, clips_in, indexed, pages, write
from trainer.data.recordings import Clip, read_part
from trainer.data.scan import scan
from trainer.data.segments import TrainingSegments, ValidationSegments, loader, readable
from trainer.data.shard_files import is_shards, scan_shards, shard_paths
from trainer.data.shards import ShardSegments, shards_of
from trainer.data.sources import recordings as found
from trainer.errors import TrainerError
from trainer.preparation.prepare import prepare

SECONDS = 0.09


@pytest.fixture
def bucket(recordings: Path) -> Iterator[str]:
    """The recordings in a file system that is no folder of this machine."""
    memory = fsspec.filesystem("memory")
    for path in recordings.iterdir():
        memory.pipe_file(f"/bucket/speech/{path.name}", path.read_bytes())
    memory.pipe_file("/bucket/speech/notes.txt", b"hi")
    yield "memory://bucket/speech"
    memory.rm("/bucket", recursive=True)


def wav(seconds: float, seed: int) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, voice(seconds, seed), RATE, format="WAV")
    return memory.getvalue()


def parquet(path: Path, sounds: list[bytes | None]) -> Path:
    """Write recordings as Hugging Face's datasets do."""
    rows = [{"audio": {"bytes": data, "path": f"{n}.wav"}} for n, data in enumerate(sounds)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def test_recordings_are_read_where_they_lie(bucket: str, recordings: Path) -> None:
    remote, local = scan(bucket), scan(recordings)
    assert [clip.url for clip in remote] == [f"{bucket}/{clip.path.name}" for clip in local]
    for one, other in zip(remote, local, strict=True):
        assert (one.frames, one.sample_rate) == (other.frames, other.sample_rate)
        assert np.array_equal(read_part(one, 0.1, 0.1, RATE), read_part(other, 0.1, 0.1, RATE))
    assert scan(recordings.as_uri())[0].frames == local[0].frames
    with pytest.raises(TrainerError, match="cannot be listed"):
        list(files_under("memory://bucket/none"))
    with pytest.raises(TrainerError, match="cannot be opened: Protocol not known"):
        scan("nowhere://bucket")


def test_a_manifest_is_a_place(recordings: Path, tmp_path: Path) -> None:
    prepare([recordings], tmp_path, train_ratio=0.7, jobs=1)
    for side in ("train", "val"):
        assert scan(tmp_path / "manifest.parquet", side) == scan(tmp_path / side)
        (tmp_path / side / scan(tmp_path / side)[0].path.name).unlink()
    # A file that is gone is found out when it is read, as only the folder tells of it.
    assert len(scan(tmp_path / "manifest.parquet")) == len(scan(tmp_path / "train")) + 1
    pq.write_table(pa.table({"path": ["a.wav"]}), tmp_path / "other.parquet")
    with pytest.raises(TrainerError, match="lacks duration, sample_rate, and has path"):
        scan(tmp_path / "other.parquet")
    with pytest.raises(TrainerError, match="has no recordings whose split is 'test'"):
        scan(tmp_path / "manifest.parquet", "test")


def test_parquet_files_of_recordings_are_shards(tmp_path: Path) -> None:
    sounds = [wav(0.2 + 0.1 * n, n) for n in range(5)]
    parquet(tmp_path / "hf" / "a.parquet", [*sounds[:3], None])
    parquet(tmp_path / "hf" / "b.parquet", [*sounds[3:], b"no sound"])
    assert is_shards(tmp_path / "hf")
    assert not is_shards(tmp_path)
    for place in (tmp_path / "hf", (tmp_path / "hf").as_uri(), f"{tmp_path}/hf/*.parquet"):
        clips = scan_shards(shard_paths(place))
        assert [round(clip.seconds, 3) for clip in clips] == [0.2, 0.3, 0.4, 0.5, 0.6]
        for number, clip in enumerate(clips):
            expected = soundfile.read(io.BytesIO(sounds[number]), dtype=np.float32)[0]
            assert np.array_equal(read_part(clip, 0.0, clip.seconds, RATE), expected)
    segments = ShardSegments(
        shards_of(shard_paths(tmp_path / "hf")), SECONDS, RATE, 2, epoch=1, seed=1, buffer=4
    )
    batches = list(loader(segments, 0, 0))
    assert len(batches) == (2 + 3 + 4 + 5 + 6) // 2
    assert all(len(readable(batch).audio) == 2 for batch in batches)
    clips = [clip for table in found(tmp_path / "hf") for clip in clips_in(table)]
    validation = ValidationSegments(clips, SECONDS, RATE, limit=9, seed=1)
    (batch,) = loader(validation, 8, 0)
    assert len(readable(batch).audio) == 5


def test_an_index_is_the_list_that_it_was_made_of(recordings: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b"/\xff.wav"))
    clips = [*scan(recordings), Clip(odd, 7, 8000, 0.5, 3, 4), Clip(Path("s"), 1, 2, url="s3://a")]
    assert write(pages(clips), tmp_path / "a.arrow") == len(clips)
    index = RecordingIndex(tmp_path / "a.arrow")
    (tmp_path / "a.arrow").unlink()
    assert list(index) == index[:] == clips
    assert index[-1] == clips[-1]
    assert index.seconds.tolist() == [clip.seconds for clip in clips]
    assert index.weights.tolist() == [clip.weight for clip in clips]
    with pytest.raises(IndexError):
        index[len(clips)]
    plain, mapped = (
        TrainingSegments(some, SECONDS, RATE, epoch=1, seed=7) for some in (clips, index)
    )
    assert len(plain) == len(mapped)
    assert (plain[3].audio == mapped[3].audio).all()
    assert len(indexed([])) == 0


def test_a_fingerprint_sees_contents_and_not_folders(tmp_path: Path) -> None:
    class Data:
        recordings, seconds = 1, 1.0

        def __init__(self, folder: Path) -> None:
            self.clips = indexed(scan(folder))

        def digest(self) -> str:
            return self.clips.digest()

    def of(folder: Path):  # type: ignore[no-untyped-def]
        return fingerprint(Data(folder), scan(folder), {})  # type: ignore[arg-type]

    for name in ("a", "b"):
        record(tmp_path / name / "1.wav", 0.5, seed=1)
    first = of(tmp_path / "a")
    assert first == of(tmp_path / "b")
    record(tmp_path / "b" / "1.wav", 0.5, seed=2)
    second = of(tmp_path / "b")
    assert second.training == first.training
    assert not same_validation(first._asdict(), second)
    record(tmp_path / "a" / "1.wav", 0.6, seed=1)
    assert of(tmp_path / "a").training != first.training
