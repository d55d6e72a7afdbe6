from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import weakref
from typing import Any

import pytest

from serving.bentoml_timeout_patch import TimeoutMiddleware, cancel_finished_timers


class Marker:
    """Something a request holds on to."""


async def requests_alive(middleware: type, count: int = 20) -> int:
    """How many of `count` finished requests are still in memory."""
    alive: weakref.WeakSet[Marker] = weakref.WeakSet()
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    holder: contextvars.ContextVar[Marker] = contextvars.ContextVar("holder")

    async def request() -> None:
        marker = Marker()
        alive.add(marker)
        holder.set(marker)  # as BentoML's request context is
        await middleware(app, timeout=60)({"type": "http"}, None, send)

    for _ in range(count):
        await asyncio.create_task(request())
    gc.collect()
    assert [message["status"] for message in sent] == [200] * count
    return len(alive)


def test_finished_requests_are_let_go() -> None:
    assert asyncio.run(requests_alive(TimeoutMiddleware)) <= 1  # a context variable remembers its last value


def test_the_installed_bentoml_still_leaks_or_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails on a newer BentoML, serving/bentoml_timeout_patch.py can go."""
    traffic = importlib.reload(importlib.import_module("bentoml._internal.server.http.traffic"))
    theirs = traffic.TimeoutMiddleware
    assert asyncio.run(requests_alive(theirs)) == 20
    assert cancel_finished_timers()
    assert traffic.TimeoutMiddleware is TimeoutMiddleware
    assert cancel_finished_timers()  # twice is once
    monkeypatch.setattr(traffic, "TimeoutMiddleware", Marker)
    assert not cancel_finished_timers()
    assert traffic.TimeoutMiddleware is Marker


def test_a_request_that_takes_too_long_gets_504_once() -> None:
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(5)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(asyncio.wait_for(TimeoutMiddleware(app, timeout=0.05)({"type": "http"}, None, send), 2))
    assert [message.get("status") for message in sent] == [504, None]


def test_an_answer_that_has_begun_may_take_its_time() -> None:
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.15)
        await send({"type": "http.response.body", "body": b"late"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(TimeoutMiddleware(app, timeout=0.05)({"type": "http"}, None, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
