"""What one running app holds, and how a request passes through it.

Three stages overlap between requests: threads read and resample, the engine computes, and
threads serialise.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import structlog
import torch
from fastapi import Request

from service.api.uploads import Upload
from service.concurrency import wait_for_disconnect
from service.engine.engine import Engine
from service.engine.io_pool import IoPool
from service.errors import DeadlineError
from service.limits.memory import MemoryBudget, Reservation
from service.limits.rates import RateLimits
from service.models.manager import ModelManager
from service.observability import tracing
from service.observability.metrics import Metrics
from service.observability.tracing import NoTracing, Tracing
from service.problems import INTERNAL, problem, problem_type
from service.runtime.lifecycle import Lifecycle
from service.runtime.peers import Worker
from service.runtime.streams import Streams
from service.settings import Settings
from snac_core import audio
from snac_core.audio import AudioFormat
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.inference.jobs import DecodeJob, EncodeJob, Job
from snac_core.inference.networks import CUDA_BATCH_SECONDS
from snac_core.types import Samples
from snac_core.utils.incremental import Incremental

log = structlog.get_logger(__name__)

CPU_BATCH_SECONDS = 8.0
"""One window of a long file, or a few short clips: nobody waits long for the next batch."""

PCM_BYTES = 2
"""A sample in the largest of the formats that audio is answered in."""

_T = TypeVar("_T")

Timings = dict[str, float]
"""Seconds by stage; a batch adds up those of its items."""


class Service:
    """Settings, metrics, models, engine and threads of one app."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.lifecycle = Lifecycle()
        self.models = ModelManager(settings, self.metrics)
        self.rates = RateLimits(settings)
        self.memory = MemoryBudget(settings.max_held_bytes, self.metrics)
        self.tracing: Tracing = NoTracing()
        self.worker: Worker | None = None
        on_gpu = torch.cuda.is_available() if settings.device is None else "cuda" in settings.device
        self.engine = Engine(
            settings.batch_seconds or (CUDA_BATCH_SECONDS if on_gpu else CPU_BATCH_SECONDS),
            settings.max_queue_seconds,
            self.metrics,
            settings.turn_seconds,
        )
        self._begun = False
        self.streams = Streams(settings, self.engine, self.rates, self.metrics)
        self.io = IoPool(settings.io_threads, self.metrics)

    def start(self) -> None:
        """Start the engine, and load and warm up the first model; nothing if that was done."""
        if not self._begun:
            self._begun = True
            self.engine.start()
            self.lifecycle.start(self._load)

    def _load(self) -> None:
        def on_progress(step: str) -> None:
            self.lifecycle.step = step

        self.models.load_first(on_progress)

    def close(self) -> None:
        """Stop the engine and the threads; what still waits gets an error."""
        self.lifecycle.stopping = True
        self.engine.close()
        self.models.close()
        self.io.close()
        self.lifecycle.join(self.settings.drain_timeout)
        self.tracing.close()

    @property
    def ready(self) -> bool:
        """Whether a request sent now would be answered."""
        running = self.lifecycle.started and not self.lifecycle.stopping
        return running and self.engine.alive and self.models.loaded

    def admit(self, request: Request) -> Codec:
        """Take the model for ``request``, which keeps it to its end and names it in headers.

        Raises
        ------
        OverloadedError, NotReadyError
            If it would be refused after its body has been read.
        """
        self.lifecycle.check_started()
        codec = self.models.codec
        request.state.model = codec
        request.state.timings = {}
        self.engine.check_open()
        return codec

    async def run_until_disconnect(
        self, request: Request, answer: Coroutine[Any, Any, _T], *, deadline: bool = True
    ) -> _T:
        """Wait for ``answer`` unless the client leaves or its time is over, which cancels it.

        A job that is cancelled leaves the engine's queue, and reading and writing end. To be
        called when the body has been read. Without ``deadline`` it is left to the items of a
        batch.

        Raises
        ------
        DisconnectedError
            If the client left.
        DeadlineError
            If the time is over.
        """
        if deadline:
            answer = self.in_time(request, answer)
        work = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(wait_for_disconnect(request.receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else gone.result()
        finally:
            work.cancel()
            gone.cancel()
            # What the request holds is counted until then.
            await asyncio.gather(work, gone, return_exceptions=True)

    async def in_time(self, request: Request, answer: Awaitable[_T]) -> _T:
        """Await ``answer`` until the deadline of ``request``, then raise DeadlineError."""
        deadline: Deadline = request.state.deadline
        try:
            async with asyncio.timeout_at(deadline.at):
                return await answer
        except TimeoutError:
            raise deadline.error() from None

    @contextlib.contextmanager
    def stage(self, request: Request, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to ``name`` in timings, metrics and trace."""
        began, started = tracing.now(), time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        _add(request.state.timings, name, seconds)
        self.metrics.stage_seconds.labels(stage=name).observe(seconds)
        self.tracing.stage(name, began, seconds)

    async def encode(self, request: Request, codec: Codec, upload: Upload) -> tuple[Samples, Codes]:
        """Turn an audio file into samples at the codec's rate, and those into codes."""

        def plan() -> Incremental[tuple[Samples, EncodeJob]]:
            samples = yield from audio.read_incremental(
                upload.data, codec.sample_rate, self.settings.max_seconds
            )
            upload.data = b""
            return samples, codec.encode_job(samples)

        with self.stage(request, "read"):
            samples, job = await self.io.run_incremental(plan)
        await self.compute(request, codec, job, len(samples) / codec.sample_rate)
        return samples, job.result()

    async def decode(
        self,
        request: Request,
        codec: Codec,
        plan: Callable[[], DecodeJob],
        audio_format: AudioFormat,
        *,
        as_text: bool = False,
    ) -> tuple[Samples, bytes]:
        """Run the decode job that ``plan`` makes, and write its samples as an audio file.

        With ``as_text`` that is in base64.

        The answer has its room before it is made, and keeps it until it takes it over.

        Raises
        ------
        OverloadedError
            If it has no room, or the queue is full.
        TooLargeError
            If it never has room.
        """
        with self.stage(request, "read"):
            job = await self.io.run(plan)
        reservation: Reservation = request.state.reservation
        room = PCM_BYTES * job.codes.num_samples * (4 if as_text else 3) // 3
        with reservation.reserve(room):
            await self.compute(request, codec, job, job.codes.duration)
            samples = job.result()

            def write() -> Incremental[bytes]:
                made = yield from audio.encode_incremental(samples, codec.sample_rate, audio_format)
                return base64.b64encode(made) if as_text else made

            with self.stage(request, "write"):
                body = await self.io.run_incremental(write)
        reservation.grow(min(0, len(body) - room))
        return samples, body

    async def compute(self, request: Request, codec: Codec, job: Job, seconds: float) -> None:
        """Have the engine do ``job``, whose ``seconds`` count against the caller's share.

        What the engine refuses does not count.

        Raises
        ------
        RateLimitError, OverloadedError
            If it is too much for the caller or for the queue.
        """
        # Nobody else can queue anything between the check and the run.
        self.engine.check_open(job.seconds)
        self.rates.count_audio(request.state.caller, seconds)
        began = tracing.now()
        timing = await self.engine.run(codec, job)
        _add(request.state.timings, "queue", timing.queue)
        _add(request.state.timings, "inference", timing.inference)
        waited = round(1e9 * timing.queue)
        self.tracing.stage("queue", began, timing.queue)
        self.tracing.stage(
            "inference",
            began + waited,
            (tracing.now() - began - waited) / 1e9,
            **{
                "snac.audio_seconds": job.seconds,
                "snac.kind": job.kind,
                "snac.engine_seconds": timing.inference,
            },
        )

    async def item(self, request: Request, answer: Awaitable[_T]) -> _T | dict[str, Any]:
        """Await one item of a batch; if it fails, its problem is its answer."""
        try:
            return await self.in_time(request, answer)
        except Exception as error:
            if problem_type(error) is INTERNAL:
                log.exception("batch item failed")
            return {"problem": problem(error, request.state.request_id, request.url.path)}


@dataclasses.dataclass(frozen=True)
class Deadline:
    """When a request's time is over, on the event loop's clock, and how much it had."""

    at: float
    seconds: float

    def error(self) -> DeadlineError:
        """Return what to answer then."""
        return DeadlineError(f"the answer took more than {self.seconds:g} s")


def _add(timings: Timings, stage: str, seconds: float) -> None:
    timings[stage] = timings.get(stage, 0.0) + seconds
