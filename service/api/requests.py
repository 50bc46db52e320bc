"""A request under way: its deadline, timings and place in the service."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Header, Request

from service.runtime.service import Deadline, Service


def from_outside(request: Request) -> bool:
    """Whether a request came by the port, and not from another worker by its socket."""
    return request.client is not None


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


async def set_deadline(
    request: Request,
    service: ServiceDep,
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
    """Give the request its deadline: the service's own, or an earlier one that it asks for."""
    seconds = min(timeout or service.settings.request_timeout, service.settings.request_timeout)
    request.state.deadline = Deadline(asyncio.get_running_loop().time() + seconds, seconds)
