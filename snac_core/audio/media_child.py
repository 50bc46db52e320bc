"""The process that decodes one recording with PyAV: file on stdin, samples to stdout.

    python media_child.py DEMUXER MAX_SECONDS

It writes lines of JSON: the rate and channels, then before each stretch of little-endian float32
its number of bytes, 0 at the end; or an error. It imports nothing of this package.
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
MEMORY_BYTES = 2**31
CPU_SECONDS = 1200


def main() -> None:
    """Decode stdin."""
    demuxer, max_seconds = sys.argv[1], float(sys.argv[2])
    _confine()
    out = os.fdopen(1, "wb", closefd=False)
    try:
        _decode(demuxer, max_seconds, out)
    except (av.error.FFmpegError, ValueError, MemoryError, OverflowError) as error:
        _say(out, {"error": str(getattr(error, "strerror", None) or error)[:200]})


def _confine() -> None:
    """From here on no file and no socket can be opened, and memory and time have an end."""
    # PyAV imports parts of itself when it meets the first stream of a kind.
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name.split(".")[1] in ("audio", "codec", "container", "subtitles", "video"):
            importlib.import_module(module.name)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _decode(demuxer: str, max_seconds: float, out: Any) -> None:
    file = os.fdopen(0, "rb", closefd=False)
    options = {"protocol_whitelist": "", "enable_drefs": "0"} if demuxer == "mov" else {}
    with av.open(file, format=demuxer, options=options, metadata_errors="ignore") as container:
        stream = container.streams.best("audio")
        if stream is None:
            raise ValueError("there is no audio in it")
        codec = stream.codec_context
        if codec is None or codec.name not in CODECS:
            raise ValueError(f"the codec {codec.name if codec else 'of it'} is not read")
        codec.thread_count = 1
        rate, samples = 0, 0
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
                size = part.samples * layout.nb_channels * 4
                _say(out, {"bytes": size}, bytes(part.planes[0])[:size])
            if max_seconds and samples > (max_seconds + 2) * rate:
                # The parent has refused it by now.
                return
        if resampler is None:
            raise ValueError("there are no samples in it")
        promised = 0.0
        if stream.duration and stream.time_base:
            promised = float(stream.duration * stream.time_base)
        if promised and samples / rate < promised - max(0.25, promised / 100):
            raise ValueError(f"cut short: {samples / rate:.3f} of {promised:.3f} s are there")
    _say(out, {"bytes": 0})


def _frames(container: Any, stream: Any) -> Any:
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError("it is damaged or cut short")
        yield from packet.decode()


def _say(out: Any, message: dict[str, Any], data: bytes = b"") -> None:
    if "bytes" in message and not data and message["bytes"]:
        return
    out.write(json.dumps(message).encode() + b"\n" + data)
    out.flush()


if __name__ == "__main__":
    main()
