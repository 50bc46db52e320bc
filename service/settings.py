"""Every setting of the service, read from ``SNAC_*`` environment variables."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

_Key = Annotated[SecretStr, Field(min_length=8)]


class Settings(BaseSettings):
    """One validated object; the field ``max_seconds`` is the variable ``SNAC_MAX_SECONDS``."""

    model_config = SettingsConfigDict(
        env_prefix="SNAC_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks one.")

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
    allow_token_space_change: bool = Field(
        default=False, description="Let a reload change the token space, and so the codes."
    )
    device: str | None = Field(
        default=None, description="Torch device, such as `cpu` or `cuda:0`; unset picks the best."
    )

    batch_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Audio-seconds, padding included, in one engine batch; unset is 8 on a CPU "
        "and 128 on a GPU.",
    )
    max_queue_seconds: float = Field(
        default=14400.0,
        gt=0,
        description="Audio-seconds that may wait for the engine; past it requests get 429.",
    )
    request_timeout: float = Field(
        default=900.0, gt=0, description="Seconds after which a request is answered 504."
    )
    io_threads: int = Field(
        default=4, ge=1, description="Threads that read, resample and serialise."
    )

    max_body_bytes: int = Field(
        default=256 * 2**20, ge=1, description="Largest request body, counted as it streams."
    )
    max_codes_bytes: int = Field(
        default=32 * 2**20, ge=1, description="Largest body of a decode request."
    )
    max_seconds: float = Field(
        default=7200.0, gt=0, description="Longest audio, decoded, in one file or one set of codes."
    )
    max_files: int = Field(default=64, ge=1, description="Most files in one encode batch.")
    max_items: int = Field(default=64, ge=1, description="Most items in one decode batch.")

    api_key: _Key | None = Field(
        default=None, description="Key that `/v1` calls must send; unset leaves them open."
    )
    admin_key: _Key | None = Field(
        default=None,
        description="Key for reload and rollback; unset leaves them open on loopback and closed "
        "elsewhere.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="`auto` is `console` on a terminal and `json` elsewhere."
    )
    drain_delay: float = Field(
        default=1.0,
        ge=0,
        description="Seconds between turning not ready and closing the port, on SIGTERM.",
    )
    drain_timeout: int = Field(
        default=30, ge=0, description="Seconds that requests in flight have to finish, on SIGTERM."
    )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
