"""Every limit in one table: what is bounded, by which setting or constant, and what answers it."""

from __future__ import annotations

from typing import NamedTuple

from service.limits.body import MAX_FIELDS, MAX_LISTS


class Limit(NamedTuple):
    """A row: ``setting`` names a field of `Settings`, or is a figure that is not to be set."""

    what: str
    setting: str
    answer: str


LIMITS = (
    Limit("head of a request", "max_header_bytes", "400, and the connection ends"),
    Limit("time for a head", "header_timeout", "the connection ends"),
    Limit("requests under way on a connection", "1", "those behind it wait, and are not read"),
    Limit("WebSocket handshake", "128 lines of 8192 bytes, no body", "400, 414 or 431"),
    Limit("idle connection", "keep_alive", "the connection ends"),
    Limit("body of a request", "max_body_bytes", "413 `too-large`"),
    Limit("codes in a body", "max_codes_bytes", "413 `too-large`"),
    Limit("JSON beside long lists of whole numbers", f"{2**20} bytes", "400 `malformed-body`"),
    Limit("nesting of JSON", "max_json_depth", "400 `malformed-body`"),
    Limit("fields of an object", str(MAX_FIELDS), "400 `malformed-body`"),
    Limit("lists and objects of a body", str(MAX_LISTS), "400 `malformed-body`"),
    Limit("multipart fields that are no files", "8 of 16 KiB, in UTF-8", "400, 415, 422"),
    Limit("files of a batch", "max_files", "413 `too-large`"),
    Limit("items of a batch", "max_items", "413 `too-large`"),
    Limit("audio of a file or of codes", "max_seconds", "413 `audio-too-long`"),
    Limit("pause in a body", "body_timeout", "408 `slow-client`"),
    Limit("rate of a body or of taking an answer", "min_rate", "408 `slow-client`, or an end"),
    Limit("time for an answer to be taken", "write_timeout", "the connection ends"),
    Limit(
        "bodies, what is parsed and decoded of them, and answers, of all callers together",
        "max_held_bytes",
        "429 `overloaded`; 413 for one that never fits",
    ),
    Limit(
        "memory of a process of the extra `media`, counted among those",
        f"{2**27} bytes",
        "400 `unreadable-audio`",
    ),
    Limit("audio in the engine's queue", "max_queue_seconds", "429 `overloaded`"),
    Limit("one caller's part of those two and of streams", "caller_share", "429 `overloaded`"),
    Limit("time for an answer", "request_timeout", "504 `deadline`"),
    Limit("requests of a caller", "rate_limit_requests", "429 `rate-limited`"),
    Limit(
        "audio that is computed for a caller",
        "rate_limit_audio",
        "429 `rate-limited`; 413 for more than a minute's",
    ),
    Limit("wrong keys from an address", "key_guesses", "429 `rate-limited`"),
    Limit("open streams", "max_streams", "429 `overloaded`"),
    Limit("first message of a stream", f"{2**14} bytes", "1009, problem `too-large`"),
    Limit("message of a stream", "stream_message_bytes", "1009, problem `too-large`"),
    Limit("frames of a message", "4096", "1009"),
    Limit("audio held by a stream", "stream_buffer_seconds", "no more is read"),
    Limit("pause of a stream", "stream_idle_timeout", "1008, problem `idle`"),
    Limit("length of a stream", "stream_max_seconds", "1008, problem `deadline`"),
    Limit("end of requests and streams on SIGTERM", "drain_timeout", "503, 1012"),
    Limit("silence of one of several workers", "heartbeat_timeout", "it is replaced"),
    Limit("silence of the model store", "store_stale_seconds", "`stale` in `/health/ready`"),
)
