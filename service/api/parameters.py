"""Names that a call does not know: query parameters and form fields, refused with the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel

from service.errors import InvalidRequestError

_MOST_SHOWN = 64
"""Letters of a wrong name that an answer repeats."""


async def refuse_unknown_query(request: Request) -> None:
    """Raise InvalidRequestError if a query parameter is none of the call's."""
    route = request.scope.get("route")
    if isinstance(route, APIRoute) and request.query_params:
        check_names("query parameter", request.query_params, query_names(route))


def query_names(route: APIRoute) -> list[str]:
    """Return the names of the query parameters that the function behind ``route`` takes."""
    names: list[str] = []
    for parameter in route.dependant.query_params:
        kind = parameter.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += kind.model_fields
        else:
            names.append(parameter.alias)
    return names


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise InvalidRequestError for the first of the ``given`` names that is not ``known``.

    Parameters
    ----------
    what
        What the names are of, as the message says it.
    """
    known = sorted(known)
    for name in given:
        if name in known:
            continue
        nearest = difflib.get_close_matches(name[:_MOST_SHOWN], known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"it takes {', '.join(known)}"
        hint = hint if known else "this call takes none"
        raise InvalidRequestError(f"there is no {what} {name[:_MOST_SHOWN]!r}: {hint}")
