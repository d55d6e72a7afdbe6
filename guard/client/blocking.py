"""`Client`: ask a service and wait."""

from __future__ import annotations

import itertools
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .answers import after_answer, after_failure, content
from .asking import Ask, ServedVerdict, ask_batches, ask_for, ask_one, verdicts
from .connection import Connection
from .retrying import Retries

if TYPE_CHECKING:
    import httpx


class Client:
    """A running service, from Python; its answers are verdicts and its refusals are `guard.errors.ServiceError`.

        with guard.Client("http://127.0.0.1:3000") as service:
            verdict = service.predict("photo.jpg")

    Overload (429, 503) is waited out as the service's Retry-After says, and a connection that broke is tried again.
    May be used by several threads. Needs httpx: ``pip install 'ood-guard[client]'``.

    Args:
        url: the service's address.
        token: its GUARD_TOKEN, where it has one; sent as ``Authorization: Bearer``.
        timeout_s: seconds to connect, and to wait for each answer.
        retries: times a request is sent again; 0 for none.
        longest_wait_s: longest pause before one of them, in seconds, whatever Retry-After says.
        transport: an `httpx.BaseTransport`, for a proxy, a Unix socket or a test.

    Raises:
        ConfigError: an argument that is not accepted.
        MissingExtraError: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: int = 4,
        longest_wait_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection = Connection(url, token, timeout_s, Retries(retries, longest_wait_s))
        options = self._connection.options(transport)
        import httpx

        self._http = httpx.Client(**options)

    def __repr__(self) -> str:
        return f"Client({self._connection.where!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, image: Any, *, model: str | None = None) -> ServedVerdict:
        """The verdict on one image.

        Args:
            image: a path, encoded bytes, a PIL image or a uint8 array (H, W[, C]), as `Guard.predict` takes one.
            model: which guard of a service that has several (GUARD_MODELS); default its first.

        Raises:
            ImageError, MissingDataError: it cannot be read as an image; nothing is sent.
            ServiceRefusedError: the service does not accept it; the message says why.
            ServiceOverloadedError, ServiceUnreachableError: it could not answer, also after retries.
        """
        return ServedVerdict.of(self._json(ask_one(image, model)))

    def predict_batch(self, images: Any, *, batch_size: int = 16, model: str | None = None) -> list[ServedVerdict]:
        """The verdicts on several images, in order.

        Args:
            images: as `Guard.predict` takes several.
            batch_size: images per request; the service takes GUARD_MAX_BATCH_IMAGES at most.
            model: as in `predict`.

        Raises:
            GuardError: as `predict`; one bad image refuses its request and is named by its number.
        """
        return [one for ask in ask_batches(images, batch_size, model) for one in verdicts(self._json(ask))]

    def model(self, model: str | None = None) -> dict[str, Any]:
        """The model card: manifest, identity, and a histogram of the calibration scores."""
        card: dict[str, Any] = self._json(ask_for("model", model))
        return card

    def drift(self, model: str | None = None) -> dict[str, Any]:
        """Whether the images of late still look like the calibration images; see docs/serving.md."""
        state: dict[str, Any] = self._json(ask_for("drift", model))
        return state

    def ready(self) -> bool:
        """Whether the service can answer now; asked once, and False where nobody answers."""
        import httpx

        try:
            return bool(self._http.get("readyz").is_success)
        except httpx.HTTPError:
            return False

    def _json(self, ask: Ask) -> Any:
        import httpx

        where, retries = self._connection.where, self._connection.retries
        for attempt in itertools.count(1):
            try:
                response = self._http.request(ask.method, ask.path, **ask.more)
                pause_s = after_answer(response, attempt, retries, where)
                if pause_s is None:
                    return content(response, where)
            except httpx.HTTPError as error:
                pause_s = after_failure(error, attempt, retries, where)
            time.sleep(pause_s)
        raise AssertionError  # the loop ends by returning or raising
