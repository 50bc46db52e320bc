"""What one running app holds, and how a request passes through it.

Three stages overlap between requests: threads read and resample, the engine computes, and
threads serialise.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, ParamSpec, TypeVar

import structlog
import torch
from fastapi import Depends, Request

from service.batching import Engine, Job
from service.errors import INTERNAL, DeadlineError, DisconnectedError, problem, problem_type
from service.metrics import Metrics
from service.model_manager import ModelManager
from service.settings import Settings
from service.uploads import Upload
from snac_core import audio
from snac_core.audio import AudioFormat, Samples
from snac_core.codec import CUDA_BATCH_SECONDS, Codec, DecodeJob, EncodeJob
from snac_core.codes import Codes

log = structlog.get_logger(__name__)

CPU_BATCH_SECONDS = 8.0
"""One window of a long file, or a few short clips: nobody waits long for the next batch."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

Timings = dict[str, float]
"""Seconds by stage; a batch adds up those of its items."""


class Service:
    """Settings, metrics, models, engine and threads of one app."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.models = ModelManager(settings, self.metrics)
        on_gpu = torch.cuda.is_available() if settings.device is None else "cuda" in settings.device
        self.engine = Engine(
            settings.batch_seconds or (CUDA_BATCH_SECONDS if on_gpu else CPU_BATCH_SECONDS),
            settings.max_queue_seconds,
            self.metrics,
        )
        self.stopping = False
        self._threads = ThreadPoolExecutor(settings.io_threads, thread_name_prefix="snac-io")
        self._started = False

    def start(self) -> None:
        """Load the first model and start the engine; nothing if that has been done.

        Raises
        ------
        ModelError, ConfigError
            If there is no model to serve.
        """
        if not self._started:
            self.models.load_first()
            self.engine.start()
            self._started = True

    def close(self) -> None:
        """Stop the engine and the threads; what still waits gets an error."""
        self.stopping = True
        self.engine.close()
        self._threads.shutdown(cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Whether a request sent now would be answered."""
        return self.engine.alive and self.models.loaded and not self.stopping

    def admit(self, request: Request) -> Codec:
        """Take the model for ``request``, which keeps it to its end and names it in headers.

        Raises
        ------
        OverloadedError, NotReadyError
            If it would be refused after its body has been read.
        """
        codec = self.models.codec
        request.state.model = codec
        request.state.timings = {}
        self.engine.check_open()
        return codec

    async def attend(self, request: Request, answer: Coroutine[Any, Any, _T]) -> _T:
        """Wait for ``answer`` unless the client leaves, which cancels it.

        A job that is cancelled leaves the engine's queue. To be called when the body has
        been read.

        Raises
        ------
        DisconnectedError
            If the client left.
        """
        work = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(_disconnection(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise DisconnectedError("the client went away before its answer")
        finally:
            work.cancel()
            gone.cancel()

    async def in_thread(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Run ``function`` in one of the service's own threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))

    async def encode(self, codec: Codec, upload: Upload, timings: Timings) -> tuple[Samples, Codes]:
        """Turn an audio file into samples at the codec's rate, and those into codes."""

        def plan() -> tuple[Samples, EncodeJob]:
            samples = audio.read(upload.take(), codec.sample_rate, self.settings.max_seconds)
            return samples, codec.encode_job(samples)

        async with self._deadline():
            with timed(timings, "read"):
                samples, job = await self.in_thread(plan)
            await self._compute(codec, job, timings)
            return samples, await self.in_thread(job.result)

    async def decode(
        self,
        codec: Codec,
        plan: Callable[[], DecodeJob],
        audio_format: AudioFormat,
        timings: Timings,
    ) -> tuple[Samples, bytes]:
        """Run the decode job that ``plan`` makes, and write its samples as an audio file."""

        def write(job: DecodeJob) -> tuple[Samples, bytes]:
            samples = job.result()
            return samples, audio.encode_bytes(samples, codec.sample_rate, audio_format)

        async with self._deadline():
            with timed(timings, "read"):
                job = await self.in_thread(plan)
            await self._compute(codec, job, timings)
            with timed(timings, "write"):
                return await self.in_thread(write, job)

    @contextlib.asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        timeout = self.settings.request_timeout
        try:
            async with asyncio.timeout(timeout):
                yield
        except TimeoutError:
            raise DeadlineError(f"the answer took more than {timeout:g} s") from None

    async def _compute(self, codec: Codec, job: Job, timings: Timings) -> None:
        timing = await self.engine.run(codec, job)
        timings["queue"] = timings.get("queue", 0.0) + timing.queue
        timings["inference"] = timings.get("inference", 0.0) + timing.inference

    async def item(self, request: Request, answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """Await one item of a batch; if it fails, its problem is its answer."""
        try:
            return await answer
        except Exception as error:
            if problem_type(error) is INTERNAL:
                log.exception("batch item failed")
            return {"problem": problem(error, request.state.request_id, request.url.path)}


@contextlib.contextmanager
def timed(timings: Timings, stage: str) -> Iterator[None]:
    """Add the seconds that the block takes to ``timings[stage]``."""
    started = time.perf_counter()
    yield
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - started


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]
