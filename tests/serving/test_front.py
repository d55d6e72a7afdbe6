"""What BentoML keeps, what goes past it, and the limit of open requests."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from serving.app import App
from serving.errors import Refusal
from serving.front import Front
from serving.settings import Settings


class Asked:
    """An ASGI application that notes who was asked, and waits where told to."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope.get("path", scope["type"]))
        if scope.get("path") == "/slow":
            await self.go_on.wait()

    async def refuse(self, scope: Any, receive: Any, send: Any, refusal: Refusal) -> None:
        await send({"status": refusal.status, "headers": refusal.headers})


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
        assert sent == [{"status": 503, "headers": {"Retry-After": "1", "Connection": "close"}}]
        await front(http("/livez"), None, None)
        assert theirs.paths == ["/livez"]
        app.go_on.set()
        await asyncio.gather(*open_ones)
        await front(http("/predict"), None, None)
        assert app.paths == ["/slow", "/slow", "/predict"]

    asyncio.run(scenario())


def test_what_is_refused_unseen_is_marked_and_counted_as_all_answers_are() -> None:
    counted: list[tuple[str, int]] = []
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    app = App(Settings(cors_origins="http://page.example"))
    app.worker.metrics = SimpleNamespace(request=lambda endpoint, code, _: counted.append((endpoint, code)))  # type: ignore[assignment]
    headers = [(b"origin", b"http://page.example"), (b"x-request-id", b"mine")]
    scope = {**http("/predict", "POST"), "headers": headers, "query_string": b""}
    asyncio.run(app.refuse(scope, None, send, Refusal(503, "full", {"Retry-After": "1"})))  # type: ignore[arg-type]
    told = dict(sent[0]["headers"])
    assert sent[0]["status"] == 503
    assert (told[b"x-request-id"], told[b"retry-after"]) == (b"mine", b"1")
    assert told[b"access-control-allow-origin"] == b"http://page.example"
    assert counted == [("/predict", 503)]
