"""Encoding and decoding for HTTP requests.

Three stages overlap between requests: I/O threads read and resample, the engine computes, and
I/O threads serialise.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from service.api.requests import Call
from service.api.uploads import Upload
from service.observability import tracing
from snac_core import audio
from snac_core.audio import AudioFormat
from snac_core.codes import Codes
from snac_core.inference.jobs import DecodeJob, EncodeJob, Job
from snac_core.types import Samples
from snac_core.utils.incremental import Incremental

PCM_BYTES = 2
"""Bytes per sample in the largest format that audio is answered in."""

SAMPLE_BYTES = 4
"""Bytes of one sample in memory, float32."""


async def encode(call: Call, upload: Upload) -> tuple[Samples, Codes]:
    """Read an audio file at the codec's sample rate and encode it; return samples and codes."""
    codec, max_seconds = call.codec, call.service.settings.max_seconds
    rates = call.service.rates
    rates.check_audio(call.caller)
    kept = 0

    def keep(count: int) -> None:
        """Reserve memory for more samples, unless their caller may not have so much audio."""
        nonlocal kept
        rates.check_audio(call.caller, (kept + count) / codec.sample_rate)
        call.reservation.grow(SAMPLE_BYTES * count)
        kept += count

    def let_go() -> None:
        nonlocal kept
        call.reservation.grow(-SAMPLE_BYTES * kept)
        kept = 0

    def plan() -> Incremental[tuple[Samples, EncodeJob]]:
        let_go()  # of what was read before, when this begins again
        samples = yield from audio.read_incremental(
            upload.data,
            codec.sample_rate,
            max_seconds,
            upload.channel,
            upload.raw,
            upload.warnings,
            keep,
            call.reservation.grow,
        )
        upload.data = b""
        return samples, codec.encode_job(samples)

    try:
        with call.stage("read"):
            samples, job = await call.service.io.run_incremental(plan)
        await compute(call, job)
    finally:
        let_go()
    return samples, job.result()


async def decode(
    call: Call, plan: Callable[[], DecodeJob], audio_format: AudioFormat, *, as_text: bool = False
) -> tuple[Samples, bytes]:
    """Run the decode job that ``plan`` makes; return samples and an audio file of them.

    Memory for the file is reserved before it is made, until the response replaces the
    reservation. ``as_text`` encodes the file in base64.

    Raises
    ------
    OverloadedError
        If the memory is not available now, or the queue is full.
    TooLargeError
        If the memory can never be available.
    """
    with call.stage("read"):
        job = await call.service.io.run(plan)
    reserved = PCM_BYTES * job.codes.num_samples * (4 if as_text else 3) // 3
    with call.reservation.reserve(reserved):
        await compute(call, job)
        samples = job.result()

        def write() -> Incremental[bytes]:
            rate = call.codec.sample_rate
            made = yield from audio.encode_incremental(samples, rate, audio_format)
            return base64.b64encode(made) if as_text else made

        with call.stage("write"):
            body = await call.service.io.run_incremental(write)
    call.reservation.grow(min(0, len(body) - reserved))
    return samples, body


async def compute(call: Call, job: Job) -> None:
    """Run ``job`` on the engine, and count what it computes against the caller's rate limit.

    That is all of a job's windows, whatever part of their audio is answered. A job that the
    engine refuses is not counted.

    Raises
    ------
    RateLimitError, OverloadedError
        If it exceeds the caller's rate limit, or the queue is full.
    """
    service, state, admission = call.service, call.state, call.take_admission()
    # Nothing else can be queued between the check and the run.
    service.engine.check_open(job.seconds, call.caller, admission)
    service.rates.count_audio(call.caller, job.seconds)
    began = tracing.now()
    timing = await service.engine.run(call.codec, job, caller=call.caller, admission=admission)
    state.add_time("queue", timing.queue)
    state.add_time("inference", timing.inference)
    waited = round(1e9 * timing.queue)
    service.tracing.stage("queue", began, timing.queue)
    service.tracing.stage(
        "inference",
        began + waited,
        (tracing.now() - began - waited) / 1e9,
        **{
            "snac.audio_seconds": job.seconds,
            "snac.kind": job.kind,
            "snac.engine_seconds": timing.inference,
        },
    )
