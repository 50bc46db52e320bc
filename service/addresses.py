"""Addresses as settings have them."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to ``host``; no name but `localhost` is resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bare(host: object) -> object:
    return host[1:-1] if isinstance(host, str) and host[:1] + host[-1:] == "[]" else host


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


Host = Annotated[str, BeforeValidator(_bare)]
"""A host, without the brackets that URLs and ports have around an IPv6 address."""

Network = Annotated[str, AfterValidator(_network)]
"""A network, such as `10.0.0.0/8`, or one address."""
