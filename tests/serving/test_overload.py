"""What needs a slow guard: overload, timeouts and failures of the runtime, on the app itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import serving.app
import serving.models
from serving.app import App
from serving.engine import load_guard
from serving.settings import Settings

Encode = Callable[..., bytes]


class Slow:
    """The colour guard, but every batch waits for `release`; with `broken` it raises instead."""

    def __init__(self, settings: Settings) -> None:
        self._guard = load_guard(Path(settings.model), settings)
        self.manifest, self.runtime = self._guard.manifest, self._guard.runtime
        self.release = threading.Event()
        self.broken = False

    def predict_batches(self, batches: list[np.ndarray]) -> Any:
        assert self.release.wait(10)
        if self.broken:
            raise RuntimeError("out of memory at 0x7f00")
        return self._guard.predict_batches(batches)


@pytest.fixture
def run(colour_guard: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """run(scenario, **settings): `await scenario(client, slow guard)` against an app in this process."""
    monkeypatch.setattr(serving.app, "_freeze", lambda: None)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)

    def run(scenario: Callable[[httpx.AsyncClient, Slow], Awaitable[Any]], **settings: Any) -> Any:
        chosen = Settings(model=colour_guard, device="cpu", **settings)
        slow = Slow(chosen)
        monkeypatch.setattr(serving.models, "load_guard", lambda *_: slow)

        async def inside() -> Any:
            app = App(chosen).asgi
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                    return await scenario(client, slow)

        return asyncio.run(inside())

    return run


def test_overload_is_answered_at_once_and_passes(run: Callable[..., Any], encode: Encode) -> None:
    image = encode((255, 0, 0))

    async def scenario(client: httpx.AsyncClient, slow: Slow) -> None:
        working = [asyncio.create_task(client.post("/predict", content=image)) for _ in range(2)]
        await asyncio.sleep(0.1)
        refused = await asyncio.wait_for(client.post("/predict", content=image), 1)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "2 images are in work already" in refused.json()["error"]
        metrics = (await client.get("/metrics")).text
        assert "guard_in_work 2.0" in metrics
        slow.release.set()
        assert [(await task).status_code for task in working] == [200, 200]
        assert (await client.post("/predict", content=image)).status_code == 200
        assert "guard_in_work 0.0" in (await client.get("/metrics")).text

    run(scenario, max_concurrency=2, max_batch_images=2)


def test_bodies_have_a_common_budget(run: Callable[..., Any]) -> None:
    async def scenario(client: httpx.AsyncClient, _: Slow) -> None:
        hold = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"x" * 900
            await hold.wait()

        first = asyncio.create_task(client.post("/predict", content=slowly()))
        await asyncio.sleep(0.1)
        refused = await client.post("/predict", content=b"x" * 900)
        assert (refused.status_code, "1000 bytes of bodies" in refused.json()["error"]) == (503, True)
        hold.set()
        assert (await first).status_code == 400
        assert (await client.post("/predict", content=b"x" * 900)).status_code == 400

    run(scenario, max_bytes=1000, max_batch_bytes=1000, max_buffered_bytes=1000)


def test_an_answer_that_takes_too_long_is_overload(run: Callable[..., Any], encode: Encode) -> None:
    async def scenario(client: httpx.AsyncClient, slow: Slow) -> None:
        late = await client.post("/predict", content=encode((255, 0, 0)))
        assert (late.status_code, "no answer within 0.2 seconds" in late.json()["error"]) == (503, True)
        slow.release.set()
        assert (await client.post("/predict", content=encode((255, 0, 0)))).status_code == 200

    run(scenario, timeout_s=0.2)


def test_a_failing_runtime_is_ours_and_tells_nothing(run: Callable[..., Any], encode: Encode) -> None:
    async def scenario(client: httpx.AsyncClient, slow: Slow) -> None:
        slow.release.set()
        slow.broken = True
        failed = await client.post("/predict", content=encode((255, 0, 0)))
        assert (failed.status_code, "0x7f00" in failed.text) == (500, False)
        slow.broken = False
        assert (await client.post("/predict", content=encode((255, 0, 0)))).status_code == 200

    run(scenario)


def test_an_uncalibrated_guard_answers_with_null(
    run: Callable[..., Any], encode: Encode, write_guard: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_guard(tmp_path / "raw.onnx", calibrated=False)

    async def scenario(client: httpx.AsyncClient, slow: Slow) -> None:
        slow._guard = load_guard(path, Settings(device="cpu"))
        slow.release.set()
        answer = (await client.post("/predict", content=encode((0, 0, 0)))).json()
        assert (answer["threshold"], answer["p_value"], answer["is_ood"]) == (None, None, False)

    run(scenario)
