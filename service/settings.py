"""Every setting of the service, read from ``SNAC_*`` environment variables.

Each class is a section of docs/settings.md, which is generated from here.
"""

from __future__ import annotations

import functools
import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service import keys
from service.keys import Key

_Secret = Annotated[SecretStr, Field(min_length=keys.MIN_LENGTH)]


def _listed(value: object) -> object:
    return keys.split(value) if isinstance(value, str) else value


_Secrets = Annotated[tuple[_Secret, ...], NoDecode, BeforeValidator(_listed)]
_Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


_Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_listed)
]


class Listening(BaseSettings):
    """Where it listens."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks one.")
    published_host: str | None = Field(
        default=None,
        description="Address under which a container's port is published; it counts in place of "
        "`SNAC_HOST` when it is decided whether keys are required.",
    )


class Models(BaseSettings):
    """What it serves, and on what."""

    model: Annotated[str, StringConstraints(min_length=1)] = Field(
        default="starter",
        description="Model served at start: `starter`, a folder, a checkpoint, a Hugging Face id, "
        "or a model store, which is then watched.",
    )
    model_store: Path | None = Field(
        default=None,
        description="Model store to watch. Its current version is served as soon as it has one; "
        "until then `SNAC_MODEL` is.",
    )
    reload_interval: float = Field(
        default=2.0, gt=0, description="Seconds between two looks at the model store."
    )
    store_stale_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds without a look at the model store that succeeded, after which "
        "`/health/ready` says `stale`; the model being served stays.",
    )
    allow_token_space_change: bool = Field(
        default=False, description="Let a reload change the token space, and so the codes."
    )
    device: str | None = Field(
        default=None, description="Torch device, such as `cpu` or `cuda:0`; unset picks the best."
    )
    devices: str | None = Field(
        default=None,
        description="One process for each of several devices, behind the same port: a list such "
        "as `cuda:0,cuda:1`, a number of them, or `all` for every visible GPU.",
    )
    heartbeat_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Seconds without a sign of life, after which one of several worker processes "
        "is ended and started again.",
    )


class Computing(BaseSettings):
    """Batches and queue."""

    batch_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Audio-seconds, padding included, in one engine batch; unset is 8 on a CPU "
        "and 128 on a GPU.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compiled kernels on a CPU: `auto` uses them where they can be built or have "
        "been, and else warns and is slower; `on` does not start without; `off` never does. On a "
        "GPU `on` is kernels in Triton and CUDA graphs, the others the layers as written.",
    )
    turn_seconds: float = Field(
        default=0.03,
        gt=0,
        description="Engine time that the windows of one long file may take before others are "
        "looked at again; it takes one window at least.",
    )
    max_queue_seconds: float = Field(
        default=14400.0,
        gt=0,
        description="Audio-seconds that may wait for the engine; past it requests get 429.",
    )
    request_timeout: float = Field(
        default=900.0,
        gt=0,
        description="Seconds, from its headers on, after which a request is answered 504. The "
        "header `X-Request-Timeout` may ask for fewer.",
    )
    io_threads: int = Field(
        default=4,
        ge=1,
        description="Threads that read, resample and serialise; long work may have all but one.",
    )


class Limits(BaseSettings):
    """How much one request may carry."""

    max_body_bytes: int = Field(
        default=256 * 2**20, ge=1, description="Largest request body, counted as it streams."
    )
    max_held_bytes: int = Field(
        default=2 * 2**30,
        ge=1,
        description="Bytes that bodies, until they are answered, and answers, from before they are "
        "decoded until they are taken, may have together; a request that would need more is "
        "answered 429, and one that would alone need more 413.",
    )
    caller_share: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="Part of the streams, of the engine's queue and of the held bytes that one "
        "caller, a key or an address, may have while nobody else has any; past it, 429. As others "
        "come, each gets the same. 1 lets one have all.",
    )
    max_codes_bytes: int = Field(
        default=32 * 2**20, ge=1, description="Largest body of a decode request."
    )
    max_header_bytes: int = Field(
        default=64 * 2**10, ge=1024, description="Largest head of a request."
    )
    max_seconds: float = Field(
        default=7200.0, gt=0, description="Longest audio, decoded, in one file or one set of codes."
    )
    max_files: int = Field(default=64, ge=1, description="Most files in one encode batch.")
    max_items: int = Field(default=64, ge=1, description="Most items in one decode batch.")
    max_json_depth: int = Field(
        default=16, ge=4, description="Deepest nesting of lists and objects in a JSON body."
    )


class StreamLimits(BaseSettings):
    """Streams: WebSockets, and answers that are sent as they are made."""

    max_streams: int = Field(
        default=256, ge=1, description="Most streams open at once; one more is answered 429."
    )
    stream_message_bytes: int = Field(
        default=2**20, ge=1024, description="Largest message on a WebSocket."
    )
    stream_buffer_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Audio-seconds that one stream may hold unsent, as tokens or as samples, "
        "before no more of it is read.",
    )
    stream_idle_timeout: float = Field(
        default=60.0, gt=0, description="Seconds in which nothing moves, after which a stream ends."
    )
    stream_max_seconds: float = Field(
        default=3600.0, gt=0, description="Seconds that a stream may be open."
    )


class SlowClients(BaseSettings):
    """How long a client may take."""

    header_timeout: float = Field(
        default=15.0, gt=0, description="Seconds in which the head of a request must have come."
    )
    body_timeout: float = Field(
        default=30.0, gt=0, description="Seconds between two pieces of a body; past it, 408."
    )
    min_rate: float = Field(
        default=1000.0,
        ge=0,
        description="Bytes per second that a body must keep up on average, once "
        "`SNAC_BODY_TIMEOUT` has passed, and that of an answer must be taken.",
    )
    write_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Seconds in which an answer that waits to be taken must get on at "
        "`SNAC_MIN_RATE`; past them the connection is cut.",
    )
    keep_alive: int = Field(
        default=30,
        ge=0,
        description="Seconds that an idle connection is kept for the next request.",
    )


class Access(BaseSettings):
    """Who may call. Away from loopback, start is refused without keys."""

    api_key: _Secret | None = Field(
        default=None, description="Key that `/v1` calls must send in `X-Api-Key`."
    )
    api_keys: _Secrets = Field(default=(), description="More such keys, with commas between them.")
    api_keys_file: Path | None = Field(
        default=None,
        description="File with more such keys, one on each line; a name for logs may follow it.",
    )
    allow_anonymous: bool = Field(
        default=False, description="Start without keys even where other machines can connect."
    )
    admin_key: _Secret | None = Field(
        default=None,
        description="Key for reload and rollback, in `X-Admin-Key`; without one they are open on "
        "loopback and closed elsewhere.",
    )
    admin_keys: _Secrets = Field(
        default=(), description="More such keys, with commas between them."
    )
    admin_keys_file: Path | None = Field(
        default=None, description="File with more such keys, as `SNAC_API_KEYS_FILE`."
    )
    metrics_key: _Secret | None = Field(
        default=None,
        description="Key that `/metrics` must be sent, as `Authorization: Bearer KEY`; without "
        "one it is open to whoever reaches the port.",
    )
    key_guesses: int = Field(
        default=30,
        ge=1,
        description="Wrong keys a minute from one address, after which no more are looked at and "
        "the answer is 429; a key that was right goes on.",
    )
    trusted_proxies: _Networks = Field(
        default=(),
        description="Addresses and networks, with commas between them, of proxies whose "
        "`X-Forwarded-For` is believed; without any, nobody's is.",
    )
    cors_origins: _Words = Field(
        default=(),
        description="Origins, with commas between them, whose pages may call from a browser; "
        "`*` is any.",
    )
    rate_limit_requests: int | None = Field(
        default=None,
        ge=1,
        description="Requests a minute for each key, or each address where there are no keys; "
        "past it, 429.",
    )
    rate_limit_audio: float | None = Field(
        default=None,
        ge=1,
        description="Audio-seconds a minute for each key or address; past it, 429, and 413 for a "
        "file that is longer by itself.",
    )


class Operation(BaseSettings):
    """Logs, traces, and the end."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="`auto` is `console` on a terminal and `json` elsewhere."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern="^https?://",
        description="OpenTelemetry collector that traces are sent to, such as "
        "`http://127.0.0.1:4318`. Needs the extra `tracing`.",
    )
    drain_delay: float = Field(
        default=1.0,
        ge=0,
        description="Seconds between turning not ready and closing the port, on SIGTERM.",
    )
    drain_timeout: int = Field(
        default=30, ge=0, description="Seconds that requests in flight have to finish, on SIGTERM."
    )


class Settings(Operation, Access, SlowClients, StreamLimits, Limits, Computing, Models, Listening):
    """One validated object; the field ``max_seconds`` is the variable ``SNAC_MAX_SECONDS``."""

    model_config = SettingsConfigDict(
        env_prefix="SNAC_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    @functools.cached_property
    def api_keyring(self) -> tuple[Key, ...]:
        """The keys of `/v1` calls; none leaves them open."""
        return _keyring(self.api_key, self.api_keys, self.api_keys_file)

    @functools.cached_property
    def admin_keyring(self) -> tuple[Key, ...]:
        """The keys of operators' calls."""
        return _keyring(self.admin_key, self.admin_keys, self.admin_keys_file)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return _is_loopback(self.host)

    @model_validator(mode="after")
    def _check_keys(self) -> Settings:
        """Read the key files now, rather than at the first call; refuse to be open to a network.

        Raises
        ------
        ValueError
            Saying which variables would help.
        """
        for name in ("api_keyring", "admin_keyring"):
            try:
                getattr(self, name)
            except ValueError as error:
                raise ValueError(f"{name.removesuffix('ring')}s: {error}") from None
        address = self.published_host or self.host
        if not (_is_loopback(address) or self.api_keyring or self.allow_anonymous):
            raise ValueError(
                f"{address} can be reached from other machines, and no keys are set. Set "
                "SNAC_API_KEY, SNAC_API_KEYS or SNAC_API_KEYS_FILE, or SNAC_ALLOW_ANONYMOUS=true "
                "to let anybody in"
            )
        return self


SECTIONS: tuple[type[BaseSettings], ...] = Settings.__bases__[::-1]
"""The classes above, in order."""


def _keyring(
    one: SecretStr | None, more: tuple[SecretStr, ...], file: Path | None
) -> tuple[Key, ...]:
    secrets = [secret.get_secret_value() for secret in ([one] if one else []) + list(more)]
    listed = keys.read_file(file) if file else []
    return keys.keyring([*((secret, "") for secret in secrets), *listed])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
