"""The table of limits names every setting that bounds a client, and no other."""

from __future__ import annotations

import re

from service.limits import body
from service.limits.table import LIMITS
from service.problems import PROBLEMS
from service.server.websocket_protocol import MOST_FRAGMENTS
from service.settings import Limits, Settings, SlowClients, StreamLimits
from service.websocket.messages import MAX_START_BYTES
from snac_core.audio import media

BESIDE = {
    "max_queue_seconds",
    "request_timeout",
    "rate_limit_requests",
    "rate_limit_audio",
    "key_guesses",
    "drain_timeout",
    "heartbeat_timeout",
    "store_stale_seconds",
}


def test_every_limiting_setting_has_its_row() -> None:
    bounding = {name for section in (Limits, SlowClients, StreamLimits) for name in _own(section)}
    named = {limit.setting for limit in LIMITS if limit.setting in Settings.model_fields}
    assert named == bounding | BESIDE
    assert len({limit.what for limit in LIMITS}) == len(LIMITS)


def test_rows_name_problems_that_there_are() -> None:
    names = {kind.name for kind in PROBLEMS.values()}
    statuses = {kind.name: str(kind.status) for kind in PROBLEMS.values()}
    for limit in LIMITS:
        for status, name in re.findall(r"(\d{3}) `([a-z-]+)`", limit.answer):
            assert statuses[name] == status
        for name in re.findall(r"problem `([a-z-]+)`", limit.answer):
            assert name in names


def test_figures_are_those_of_the_code() -> None:
    figures = {limit.what: limit.setting for limit in LIMITS}
    assert figures["fields of an object"] == str(body.MAX_FIELDS)
    assert figures["lists and objects of a body"] == str(body.MAX_LISTS)
    assert figures["frames of a message"] == str(MOST_FRAGMENTS)
    assert figures["first message of a stream"] == f"{MAX_START_BYTES} bytes"
    memory = figures["memory of a process of the extra `media`, counted among those"]
    assert memory == f"{media.MEMORY_BYTES} bytes"


def _own(section: type) -> list[str]:
    return list(section.__annotations__)
