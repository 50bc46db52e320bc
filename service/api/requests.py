"""One HTTP request: its deadline, model, memory and timings."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import Depends, Header, Request

from service.concurrency import wait_for_disconnect
from service.engine.admissions import Admission
from service.errors import DeadlineError
from service.limits.memory import reservation_of
from service.observability import tracing
from service.problems import INTERNAL, problem, problem_type
from service.request_state import RequestState
from service.runtime.service import Service
from snac_core.codec import Codec

log = structlog.get_logger(__name__)

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Deadline:
    """When a request must be answered: event-loop time in seconds, and the seconds it had."""

    at: float = math.inf
    seconds: float = math.inf

    def error(self) -> DeadlineError:
        """Return the error for a request that missed its deadline."""
        return DeadlineError(f"the answer took more than {self.seconds:g} s")


# Asynchronous, as every dependency: FastAPI calls others in a thread, and a change of threads costs
# milliseconds while the engine computes.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


class Call:
    """A request and the service that answers it; `admit` gives it its ``codec``."""

    codec: Codec

    def __init__(self, service: Service, request: Request) -> None:
        self.service, self.request = service, request
        self.state = RequestState.of(request.scope)
        self.reservation = reservation_of(request.scope)
        self.deadline = Deadline()
        self._admission: Admission | None = None

    @property
    def accept(self) -> str | None:
        """The header ``Accept``."""
        return self.request.headers.get("accept")

    @property
    def caller(self) -> str:
        """Who is counted against limits."""
        return self.state.caller or ""

    @property
    def from_outside(self) -> bool:
        """Whether the request came through the port, not from another worker's socket."""
        return self.request.client is not None

    def use(self, codec: Codec) -> Codec:
        """Answer with ``codec`` to the end of the request, and name it in the headers."""
        self.codec = self.state.model = codec
        return codec

    def admit(self) -> Codec:
        """Take the model being served, and a place in the queue before anything is uploaded.

        Raises
        ------
        OverloadedError, NotReadyError
            If the queue is full or nothing can be answered.
        """
        self.service.lifecycle.check_started()
        codec = self.use(self.service.models.codec)
        self._admission = self.service.engine.admit(self.caller)
        return codec

    def take_admission(self) -> Admission | None:
        """Return the place in the queue that `admit` got, once: for the request's first job."""
        admission, self._admission = self._admission, None
        return admission

    def close(self) -> None:
        """Give up a place that no job took."""
        if self._admission is not None:
            self.service.engine.leave(self._admission)

    async def run_until_disconnect(
        self, answer: Coroutine[Any, Any, _T], *, deadline: bool = True
    ) -> _T:
        """Await ``answer``; cancel it if the client disconnects or the deadline passes.

        A cancelled job leaves the engine's queue, and its reading and writing end. Call this
        once the body has been read. ``deadline=False`` is for batches, whose items each keep
        the deadline.

        Raises
        ------
        DisconnectedError
            If the client disconnected.
        DeadlineError
            If the deadline passed.
        """
        if deadline:
            answer = self.before_deadline(answer)
        work = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(wait_for_disconnect(self.request.receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else gone.result()
        finally:
            work.cancel()
            gone.cancel()
            # The request's memory stays reserved until both have ended.
            await asyncio.gather(work, gone, return_exceptions=True)

    async def before_deadline(self, answer: Awaitable[_T]) -> _T:
        """Await ``answer``, or raise DeadlineError once the deadline passes."""
        try:
            async with asyncio.timeout_at(self.deadline.at):
                return await answer
        except TimeoutError:
            raise self.deadline.error() from None

    async def item(self, answer: Awaitable[_T]) -> _T | dict[str, Any]:
        """Await one item of a batch; if it fails, its problem is its answer."""
        try:
            return await self.before_deadline(answer)
        except Exception as error:
            if problem_type(error) is INTERNAL:
                log.exception("batch item failed")
            path = self.request.url.path
            return {"problem": problem(error, self.state.request_id, path)}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record the block's duration under ``name`` in timings, metrics and trace."""
        began, started = tracing.now(), time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.state.add_time(name, seconds)
        self.service.metrics.stage_seconds.labels(stage=name).observe(seconds)
        self.service.tracing.stage(name, began, seconds)


async def _call(service: ServiceDep, request: Request) -> AsyncIterator[Call]:
    with contextlib.closing(Call(service, request)) as call:
        yield call


CallDep = Annotated[Call, Depends(_call)]


async def set_deadline(
    call: CallDep,
    timeout: Annotated[
        float | None,
        Header(
            alias="X-Request-Timeout",
            gt=0,
            allow_inf_nan=False,
            description="Seconds after which 504 is a better answer than a late one; the "
            "service's own limit stands.",
        ),
    ] = None,
) -> None:
    """Set the call's deadline: the service's own, or an earlier one that the request asks for."""
    most = call.service.settings.request_timeout
    seconds = min(timeout or most, most)
    call.reservation.belongs_to(call.caller)
    call.deadline = Deadline(asyncio.get_running_loop().time() + seconds, seconds)
