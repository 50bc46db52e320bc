"""Every setting of the service, read from ``SNAC_*`` environment variables.

Each class is a section of docs/settings.md, which is generated from here.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service import keys
from service.addresses import Host, Network, is_loopback
from service.cgroup import memory_limit
from service.keys import Key

PREFIX = "SNAC_"

_OWN_BYTES = 384 * 2**20
"""What the interpreter, the starter model and the engine's buffers take."""

_LEAST_HELD = 16 * 2**20

_Secret = Annotated[SecretStr, Field(min_length=keys.MIN_LENGTH)]


def _listed(value: object) -> object:
    return keys.split(value) if isinstance(value, str) else value


_Secrets = Annotated[tuple[_Secret, ...], NoDecode, BeforeValidator(_listed)]
_Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
_Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_listed)]


class Listening(BaseSettings):
    """Address and port."""

    host: Host = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks one.")
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Path under which a proxy publishes the service, such as `/snac`; the proxy "
        "may strip it or not.",
    )
    published_host: Host | None = Field(
        default=None,
        description="Address under which a container's port is published; it replaces `SNAC_HOST` "
        "in deciding whether keys are required, and in the URL that the log announces.",
    )
    published_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port under which a container's port is published, for that URL.",
    )


class Models(BaseSettings):
    """Model and devices."""

    model: Annotated[str, StringConstraints(min_length=1)] = Field(
        default="starter",
        description="Model to load at start: `starter`, a folder, a checkpoint, a Hugging Face "
        "ID, or a model store, which is then watched.",
    )
    model_store: Path | None = Field(
        default=None,
        description="Model store to watch. `SNAC_MODEL` is served until the store has a current "
        "version.",
    )
    reload_interval: float = Field(
        default=2.0, gt=0, description="Seconds between polls of the model store."
    )
    store_stale_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds without a look at the model store that succeeded, after which "
        "`/health/ready` says `stale`; the model being served stays.",
    )
    allow_token_space_change: bool = Field(
        default=False,
        description="Let a reload change the token space, and so the meaning of codes.",
    )
    device: str | None = Field(
        default=None, description="Torch device, such as `cpu` or `cuda:0`; unset selects the best."
    )
    devices: str | None = Field(
        default=None,
        description="Run one process per device behind the same port: a list such as "
        "`cuda:0,cuda:1`, a number of devices, or `all` for every visible GPU.",
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
        description="Compiled kernels. On a CPU, `auto` uses them if they are built or can be "
        "built, and otherwise warns and runs slower; `on` refuses to start without them; `off` "
        "never uses them. On a GPU, `on` uses Triton kernels and CUDA graphs; the others use "
        "plain PyTorch.",
    )
    turn_seconds: float = Field(
        default=0.03,
        gt=0,
        description="Seconds of engine time for the windows of one long file before other requests "
        "get a turn; at least one window runs.",
    )
    max_queue_seconds: float = Field(
        default=14400.0,
        gt=0,
        description="Audio-seconds that may be queued; beyond it requests get 429.",
    )
    request_timeout: float = Field(
        default=900.0,
        gt=0,
        description="Seconds from a request's headers until it is answered with 504. The header "
        "`X-Request-Timeout` may request fewer.",
    )
    io_threads: int = Field(
        default=4,
        ge=1,
        description="Threads that read, resample and serialise; long work may use all but one.",
    )


class Limits(BaseSettings):
    """Request size."""

    max_body_bytes: int = Field(
        default=256 * 2**20, ge=1, description="Largest request body, counted as it streams."
    )
    max_held_bytes: int = Field(
        default=2 * 2**30,
        ge=1,
        description="Memory in bytes that all requests may hold together: bodies until the "
        "response, 128 MiB for each decoder of the extra `media`, responses from before decoding "
        "until the client has received them. A request gets 429 if it does not fit now, and 413 "
        "if it can never fit. Unless it is set, it is at most half of the memory that the machine "
        "or the container has beyond 384 MiB.",
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
        default=64 * 2**10, ge=1024, description="Largest request head (request line and headers)."
    )
    max_seconds: float = Field(
        default=7200.0,
        gt=0,
        description="Longest audio, decoded, in one file or one set of codes; "
        "[audio.md](audio.md) has what is read.",
    )
    max_files: int = Field(default=64, ge=1, description="Most files in one encode batch.")
    max_items: int = Field(default=64, ge=1, description="Most items in one decode batch.")
    max_json_depth: int = Field(
        default=16, ge=4, description="Deepest nesting of lists and objects in a JSON body."
    )


class StreamLimits(BaseSettings):
    """Streams: WebSockets and streamed responses."""

    max_streams: int = Field(
        default=256, ge=1, description="Most streams open at once; beyond it 429."
    )
    stream_message_bytes: int = Field(
        default=2**20, ge=1024, description="Largest message on a WebSocket."
    )
    stream_buffer_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Audio-seconds that one stream may buffer, as tokens or samples, before "
        "reading from it pauses.",
    )
    stream_idle_timeout: float = Field(
        default=60.0, gt=0, description="Seconds without traffic after which a stream ends."
    )
    stream_max_seconds: float = Field(
        default=3600.0, gt=0, description="Longest duration of a stream, in seconds."
    )


class SlowClients(BaseSettings):
    """Slow clients."""

    header_timeout: float = Field(
        default=15.0, gt=0, description="Seconds in which the head of a request must arrive."
    )
    body_timeout: float = Field(
        default=30.0,
        gt=0,
        description="Longest pause in seconds between two chunks of a body; beyond it 408.",
    )
    min_rate: float = Field(
        default=1000.0,
        ge=0,
        description="Minimum average rate, in bytes per second: of a body, after "
        "`SNAC_BODY_TIMEOUT` has passed, and of a client that receives a response.",
    )
    write_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Seconds over which a client must receive a waiting response at "
        "`SNAC_MIN_RATE`; otherwise the connection is closed.",
    )
    keep_alive: int = Field(
        default=30,
        ge=0,
        description="Seconds that an idle connection stays open for the next request.",
    )


class Access(BaseSettings):
    """Access control. Without keys the service starts on loopback addresses only."""

    api_key: _Secret | None = Field(
        default=None, description="Key that `/v1` requests must send in `X-Api-Key`."
    )
    api_keys: _Secrets = Field(default=(), description="More such keys, comma-separated.")
    api_keys_file: Path | None = Field(
        default=None,
        description="File with more such keys, one per line; a name for logs may follow each.",
    )
    allow_anonymous: bool = Field(
        default=False, description="Start without keys even if other machines can connect."
    )
    admin_key: _Secret | None = Field(
        default=None,
        description="Key for reload and rollback, in `X-Admin-Key`; without one they are allowed "
        "on loopback only.",
    )
    admin_keys: _Secrets = Field(default=(), description="More such keys, comma-separated.")
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
        description="Origins, comma-separated, whose pages may call from a browser; `*` allows "
        "any.",
    )
    rate_limit_requests: int | None = Field(
        default=None,
        ge=1,
        description="Requests per minute for each key, or each address if no keys are set; beyond "
        "it 429.",
    )
    rate_limit_audio: float | None = Field(
        default=None,
        ge=1,
        description="Audio-seconds per minute for each key or address; beyond it 429, or 413 for a "
        "single file that is longer.",
    )


class Operation(BaseSettings):
    """Logs, traces and shutdown."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="`auto` is `console` on a terminal and `json` elsewhere."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern="^https?://",
        description="OpenTelemetry collector for traces, such as `http://127.0.0.1:4318`. Requires "
        "the extra `tracing`.",
    )
    drain_delay: float = Field(
        default=1.0,
        ge=0,
        description="On SIGTERM, seconds between turning not ready and closing the port.",
    )
    drain_timeout: int = Field(
        default=30, ge=0, description="On SIGTERM, seconds for requests in flight to finish."
    )


class Settings(Operation, Access, SlowClients, StreamLimits, Limits, Computing, Models, Listening):
    """All settings, validated; the field ``max_seconds`` is the variable ``SNAC_MAX_SECONDS``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    @functools.cached_property
    def api_keyring(self) -> tuple[Key, ...]:
        """The keys of `/v1` requests; if empty, no key is required."""
        return _keyring(self.api_key, self.api_keys, self.api_keys_file)

    @functools.cached_property
    def admin_keyring(self) -> tuple[Key, ...]:
        """The keys of reload and rollback."""
        return _keyring(self.admin_key, self.admin_keys, self.admin_keys_file)

    @property
    def address(self) -> str:
        """The address under which clients know the service."""
        return self.published_host or self.host

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.address)

    @property
    def held_bytes(self) -> int:
        """Bytes that requests may hold together: as set, or as the memory here allows."""
        limit = memory_limit()
        if limit is None or "max_held_bytes" in self.model_fields_set:
            return self.max_held_bytes
        # A body is twice in memory while its parts are joined.
        return min(self.max_held_bytes, max((limit - _OWN_BYTES) // 2, _LEAST_HELD))

    @model_validator(mode="after")
    def _check_keys(self) -> Settings:
        """Read the key files at start; refuse to serve a network without keys.

        Raises
        ------
        ValueError
            Naming the variables to set.
        """
        for name in ("api_keyring", "admin_keyring"):
            try:
                getattr(self, name)
            except ValueError as error:
                raise ValueError(f"{name.removesuffix('ring')}s: {error}") from None
        if not (self.on_loopback or self.api_keyring or self.allow_anonymous):
            raise ValueError(
                f"{self.address} can be reached from other machines, and no keys are set. Set "
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
