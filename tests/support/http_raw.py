"""Raw sockets to a server with short timeouts."""

from __future__ import annotations

import socket
from typing import Any

import httpx

IMPATIENCE = {
    "header_timeout": 0.4,
    "body_timeout": 0.4,
    "write_timeout": 0.6,
    "min_rate": 2000.0,
    "max_header_bytes": 4096,
}


PATIENCE = 2.0


def connect(running: Any) -> socket.socket:
    url = httpx.URL(running.url)
    return socket.create_connection((url.host, url.port or 80), timeout=300)


def everything(connection: socket.socket) -> bytes:
    """Read until the server closes, cleanly or not."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def post(running: Any, path: str, content: bytes, **headers: str) -> socket.socket:
    """Send a request, and leave its answer to whoever wants it."""
    connection = connect(running)
    lines = {"Host": "x", "Content-Length": str(len(content)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content)
    return connection


def multipart(*files: bytes) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://x", files=[("files", ("a.wav", one)) for one in files])
    return request.read(), request.headers["Content-Type"]
