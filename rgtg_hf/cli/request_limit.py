"""Refuses requests whose body is larger than anything the playground's own page sends."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

__all__ = ["RequestLimit"]


class RequestLimit:
    """Middleware of an ASGI application: bodies must say their size, and must not be larger than `most` bytes.

    A server never hands on more than the size that a request has said.

    Args:
        app: The application.
        most: The largest body, in bytes.
    """

    def __init__(self, app: Any, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hands a request on, or answers it with 411 (no size) or 413 (too large)."""
        app = self.app
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            size = Headers(scope=scope).get("content-length", "")
            if not size.isascii() or not size.isdigit():
                app = PlainTextResponse("a request must say its size", status_code=411)
            elif len(size) > 18 or int(size) > self.most:
                app = PlainTextResponse(f"a request may have {self.most} bytes", status_code=413)
        await app(scope, receive, send)
