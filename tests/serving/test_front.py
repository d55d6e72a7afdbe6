"""What BentoML keeps, what goes past it, and the limit of open requests."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.front import Front


class Asked:
    """An ASGI application that notes who was asked, and waits where told to."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope.get("path", scope["type"]))
        if scope.get("path") == "/slow":
            await self.go_on.wait()


def http(path: str, method: str = "GET") -> dict[str, str]:
    return {"type": "http", "path": path, "method": method}


@pytest.mark.parametrize(
    ("scope", "ours"),
    [
        (http("/livez"), False),
        (http("/readyz", "HEAD"), False),
        (http("/livez", "POST"), True),
        (http("/predict", "POST"), True),
        (http("/livez/x"), True),
        ({"type": "lifespan"}, False),
        ({"type": "websocket", "path": "/ui"}, False),
    ],
)
def test_health_and_the_life_cycle_are_bentomls(scope: dict[str, str], ours: bool) -> None:
    async def scenario() -> tuple[int, int]:
        app, theirs = Asked(), Asked()
        await Front(app, theirs, 1)(scope, None, None)  # type: ignore[arg-type]
        return len(app.paths), len(theirs.paths)

    assert asyncio.run(scenario()) == (int(ours), int(not ours))


def test_too_many_open_requests_are_refused_at_once_while_health_is_answered() -> None:
    async def scenario() -> None:
        app, theirs, sent = Asked(), Asked(), list[dict[str, Any]]()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        front = Front(app, theirs, 2)  # type: ignore[arg-type]
        open_ones = [asyncio.create_task(front(http("/slow"), None, None)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.wait_for(front(http("/predict"), None, send), 1)
        assert (sent[0]["status"], dict(sent[0]["headers"])[b"retry-after"]) == (503, b"1")
        await front(http("/livez"), None, None)
        assert theirs.paths == ["/livez"]
        app.go_on.set()
        await asyncio.gather(*open_ones)
        await front(http("/predict"), None, None)
        assert app.paths == ["/slow", "/slow", "/predict"]

    asyncio.run(scenario())
