"""The process that decodes one recording with PyAV: it asks for bytes and answers samples.

    python media_child.py DEMUXER MAX_SECONDS FILE_BYTES MEMORY_BYTES

It writes lines of JSON to stdout: the rate and channels, then before each stretch of
little-endian float32 its number of bytes, 0 at the end; or an error. For a line with ``read``, an
offset and a size of at most 32 KiB, it takes so many bytes of the file from stdin. So it holds no
copy of the file. It imports nothing of this package.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import resource
import sys
from typing import Any

import av

CODECS = frozenset(
    {"aac", "aac_latm", "opus", "vorbis", "flac", "alac", "mp3", "mp3float", "mp2", "mp2float"}
    | {"amrnb", "amrwb", "amr_nb", "amr_wb", "wmav1", "wmav2", "wmapro", "wmalossless", "wmavoice"}
    | {"speex", "libspeex", "libopus", "libvorbis", "ac3", "eac3", "g722", "g726", "g723_1"}
    | {"g729", "gsm", "gsm_ms", "adpcm_g722", "adpcm_g726", "truespeech", "qcelp", "ac3float"}
    | {"libopencore_amrnb", "libopencore_amrwb", "adpcm_ima_qt", "adpcm_ms", "adpcm_ima_wav"}
    | {"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_f32le", "pcm_mulaw", "pcm_alaw"}
)
CPU_SECONDS = 1200
READ_BYTES = 2**15
SENT_BYTES = 2**17


def main() -> None:
    """Decode the file that the parent has."""
    demuxer, max_seconds = sys.argv[1], float(sys.argv[2])
    file_bytes, memory_bytes = int(sys.argv[3]), int(sys.argv[4])
    _confine(memory_bytes)
    out = os.fdopen(1, "wb", closefd=False)
    try:
        _decode(demuxer, max_seconds, _File(file_bytes, out), out)
    except (av.error.FFmpegError, ValueError, MemoryError, OverflowError) as error:
        _say(out, {"error": str(getattr(error, "strerror", None) or error)[:200]})


class _File:
    """The parent's file, of which it gives what is asked for."""

    def __init__(self, size: int, out: Any) -> None:
        self._size, self._out, self._at = size, out, 0
        self._answers = os.fdopen(0, "rb", closefd=False)

    def read(self, size: int) -> bytes:
        size = min(size, READ_BYTES, self._size - self._at)
        if size <= 0:
            return b""
        _say(self._out, {"read": [self._at, size]})
        data = self._answers.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at


def _confine(memory_bytes: int) -> None:
    """From here on no file and no socket can be opened, and memory and time have an end."""
    # PyAV imports parts of itself when it meets the first stream of a kind.
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name.split(".")[1] in ("audio", "codec", "container", "subtitles", "video"):
            importlib.import_module(module.name)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _decode(demuxer: str, max_seconds: float, file: _File, out: Any) -> None:
    options = {"protocol_whitelist": "", "enable_drefs": "0"} if demuxer == "mov" else {}
    with av.open(file, format=demuxer, options=options, metadata_errors="ignore") as container:
        stream = container.streams.best("audio")
        if stream is None:
            raise ValueError("there is no audio in it")
        codec = stream.codec_context
        if codec is None or codec.name not in CODECS:
            raise ValueError(f"the codec {codec.name if codec else 'of it'} is not read")
        codec.thread_count = 1
        rate, samples, waiting = 0, 0, bytearray()
        layout: Any = None
        resampler = None
        for frame in _frames(container, stream):
            if resampler is None:
                rate, layout = frame.sample_rate, frame.layout
                _say(out, {"sample_rate": rate, "channels": layout.nb_channels})
                resampler = av.AudioResampler(format="flt", layout=layout, rate=rate)
            elif (frame.sample_rate, frame.layout.nb_channels) != (rate, layout.nb_channels):
                raise ValueError("the sample rate or the channels change within it")
            for part in resampler.resample(frame):
                samples += part.samples
                waiting += bytes(part.planes[0])[: part.samples * layout.nb_channels * 4]
            if len(waiting) >= SENT_BYTES:
                _say(out, {"bytes": len(waiting)}, waiting)
                waiting.clear()
            if max_seconds and samples > (max_seconds + 2) * rate:
                # The parent has refused it by now.
                return
        if resampler is None:
            raise ValueError("there are no samples in it")
        if waiting:
            _say(out, {"bytes": len(waiting)}, waiting)
        promised = _promised(demuxer, container, stream)
        if promised and samples / rate < promised - max(0.25, promised / 100):
            raise ValueError(f"cut short: {samples / rate:.3f} of {promised:.3f} s are there")
    _say(out, {"bytes": 0})


def _promised(demuxer: str, container: Any, stream: Any) -> float:
    """Return the seconds that the file's header states; 0 if it states none.

    FFmpeg guesses those of other containers from the bitrate of what it saw first.
    """
    if demuxer == "mov" and stream.duration:
        return float(stream.duration * stream.time_base)
    if demuxer == "matroska" and len(container.streams) == 1 and container.duration:
        return float(container.duration / av.time_base)
    return 0.0


def _frames(container: Any, stream: Any) -> Any:
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError("it is damaged or cut short")
        yield from packet.decode()


def _say(out: Any, message: dict[str, Any], data: bytes | bytearray = b"") -> None:
    out.write(json.dumps(message).encode() + b"\n" + data)
    out.flush()


if __name__ == "__main__":
    main()
