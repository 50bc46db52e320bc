"""The path under which a proxy publishes the service."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class RootPathMiddleware:
    """Set ASGI's ``root_path``, whether the proxy strips it from the request's path or not.

    Parameters
    ----------
    root_path
        Such as ``/snac``; empty for none.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI)."""
        root = self.root_path
        if root and scope["type"] in ("http", "websocket"):
            scope = {**scope, "root_path": root}
            # ASGI wants it in the path as well.
            if not f"{scope['path']}/".startswith(f"{root}/"):
                scope["path"] = root + scope["path"]
                scope["raw_path"] = root.encode() + scope.get("raw_path", b"")
        await self.app(scope, receive, send)
