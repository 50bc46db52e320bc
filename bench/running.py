"""A server in a process of its own, as benchmarks post to it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import httpx


class Server(NamedTuple):
    """Where a server listens, and its process."""

    url: str
    pid: int


@contextlib.contextmanager
def service(*arguments: str, quiet: bool = False, **variables: str) -> Iterator[Server]:
    """Run `snac-service` while the block runs; the block begins when it is ready.

    Parameters
    ----------
    arguments
        Its command line, less the port.
    quiet
        Whether to drop what it logs.
    variables
        Its environment, on top of this process's.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "--port", str(port), *arguments],
        env={**os.environ, "SNAC_LOG_LEVEL": "warning", **variables},
        stderr=subprocess.DEVNULL if quiet else None,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health/ready").is_success:
                    break
            time.sleep(0.2)
        else:
            raise SystemExit(f"the service ended with {process.returncode}")
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait()
