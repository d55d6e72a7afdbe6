"""Every request but BentoML's health checks goes to our application directly.

BentoML wraps an application that is mounted in it into tracing, timers, limits and two routers, which together take
longer than scoring a small image. Its application keeps the life cycle, /livez, /readyz and /healthz.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from _bentoml_sdk import Service

from .app import HEALTH, App
from .bodies import Budget
from .errors import overloaded

Asgi = Callable[[Any, Any, Any], Awaitable[None]]
_BUSY = overloaded("too many requests are open; send it again in a second")
_BUSY.headers["Connection"] = "close"  # its body is not read


class Front:
    """The ASGI application that uvicorn calls.

    Args:
        app: answers what is asked.
        theirs: BentoML's.
        most_open: requests that may be open at once, most of them uploading; more are answered 503.
    """

    def __init__(self, app: App, theirs: Asgi, most_open: int) -> None:
        self._app = app
        self._theirs = theirs
        self._open = Budget(most_open)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        health = scope["type"] != "http" or (scope["path"] in HEALTH and scope["method"] in ("GET", "HEAD"))
        if health:
            await self._theirs(scope, receive, send)
        elif self._open.full:
            await self._app.refuse(scope, receive, send, _BUSY)
        else:
            self._open.take(1, "requests")
            try:
                await self._app(scope, receive, send)
            finally:
                self._open.give(1)


def put_before(service: Any, app: App, most_open: int) -> bool:
    """Let `service` be asked through a `Front`; returns whether this BentoML makes its application as is known here
    (else it stays mounted)."""
    original = getattr(Service, "to_asgi", None)
    if original is None:
        return False

    def to_asgi(self: Any, *args: Any, **kwargs: Any) -> Any:
        theirs = original(self, *args, **kwargs)
        return Front(app, theirs, most_open) if self is service else theirs

    Service.to_asgi = to_asgi
    return True
