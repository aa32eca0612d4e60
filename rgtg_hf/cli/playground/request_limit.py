"""Refuses requests with a larger body than the playground's own page sends."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

__all__ = ["RequestLimit"]


class RequestLimit:
    """Middleware of an ASGI application: a request must state the size of its body, which has at most `most` bytes.

    The server never passes on more bytes than a request has stated.

    Args:
        app: The application.
        most: The largest body, in bytes.
    """

    def __init__(self, app: Any, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, or answers it with 411 (no size) or 413 (too large)."""
        app = self.app
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            size = Headers(scope=scope).get("content-length", "")
            if not size.isascii() or not size.isdigit():
                app = PlainTextResponse("a request must state its size", status_code=411)
            elif len(size) > 18 or int(size) > self.most:
                app = PlainTextResponse(f"a request may have at most {self.most} bytes", status_code=413)
        await app(scope, receive, send)
