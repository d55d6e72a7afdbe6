"""`AsyncClient`: `Client` for programs with an event loop."""

from __future__ import annotations

import asyncio
import itertools
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .answers import after_answer, after_failure, content
from .asking import Ask, ServedVerdict, ask_batches, ask_for, ask_one, verdicts
from .connection import Connection
from .retrying import Retries

if TYPE_CHECKING:
    import httpx


class AsyncClient:
    """`guard.Client` with methods that are awaited; arguments, answers and errors are the same.

        async with guard.AsyncClient("http://127.0.0.1:3000") as service:
            verdicts = await asyncio.gather(*(service.predict(path) for path in paths))

    Args:
        url, token, timeout_s, retries, longest_wait_s: as of `Client`.
        transport: an `httpx.AsyncBaseTransport`.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: int = 4,
        longest_wait_s: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._connection = Connection(url, token, timeout_s, Retries(retries, longest_wait_s))
        options = self._connection.options(transport)
        import httpx

        self._http = httpx.AsyncClient(**options)

    def __repr__(self) -> str:
        return f"AsyncClient({self._connection.where!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(self, image: Any, *, model: str | None = None) -> ServedVerdict:
        """As `Client.predict`; the image is read and encoded in a thread."""
        return ServedVerdict.of(await self._json(await asyncio.to_thread(ask_one, image, model)))

    async def predict_batch(
        self, images: Any, *, batch_size: int = 16, model: str | None = None
    ) -> list[ServedVerdict]:
        """As `Client.predict_batch`, one request after the other."""
        asks, found = ask_batches(images, batch_size, model), list[ServedVerdict]()
        while (ask := await asyncio.to_thread(next, asks, None)) is not None:
            found += verdicts(await self._json(ask))
        return found

    async def model(self, model: str | None = None) -> dict[str, Any]:
        """As `Client.model`."""
        card: dict[str, Any] = await self._json(ask_for("model", model))
        return card

    async def drift(self, model: str | None = None) -> dict[str, Any]:
        """As `Client.drift`."""
        state: dict[str, Any] = await self._json(ask_for("drift", model))
        return state

    async def ready(self) -> bool:
        """As `Client.ready`."""
        import httpx

        try:
            return bool((await self._http.get("readyz")).is_success)
        except httpx.HTTPError:
            return False

    async def _json(self, ask: Ask) -> Any:
        import httpx

        where, retries = self._connection.where, self._connection.retries
        for attempt in itertools.count(1):
            try:
                response = await self._http.request(ask.method, ask.path, **ask.more)
                pause_s = after_answer(response, attempt, retries, where)
                if pause_s is None:
                    return content(response, where)
            except httpx.HTTPError as error:
                pause_s = after_failure(error, attempt, retries, where)
            await asyncio.sleep(pause_s)
        raise AssertionError  # the loop ends by returning or raising
