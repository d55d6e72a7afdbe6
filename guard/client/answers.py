"""What a client makes of an answer, or of none: take it, ask again, or an error that says what is the matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ServiceError, ServiceOverloadedError, ServiceRefusedError, ServiceUnreachableError
from .retrying import OVERLOADED, Retries

if TYPE_CHECKING:
    import httpx


def after_answer(response: httpx.Response, attempt: int, retries: Retries, where: str) -> float | None:
    """None where the answer is to be taken; else the seconds after which to ask again.

    Args:
        attempt: how many requests were made, this one included.
        where: the service's address, for messages.

    Raises:
        ServiceOverloadedError: it is overloaded, also the last time it was asked.
        ServiceRefusedError: 4xx, in the service's words.
        ServiceError: anything else that is not 2xx.
    """
    status = response.status_code
    if response.is_success:
        return None
    if status in OVERLOADED:
        if attempt <= retries.most:
            return retries.wait_s(attempt, response.headers)
        raise ServiceOverloadedError(f"{where} is overloaded, {_times(attempt)} ({status}): {_sentence(response)}")
    if 400 <= status < 500:
        raise ServiceRefusedError(f"{where} refused the request ({status}): {_sentence(response)}", status)
    if response.is_redirect:
        moved = response.headers.get("location", "")
        raise ServiceError(f"{where} sent us elsewhere ({status}); give the address of the service itself, {moved!r}?")
    raise ServiceError(f"{where} failed ({status}): {_sentence(response)}")


def after_failure(error: httpx.HTTPError, attempt: int, retries: Retries, where: str) -> float:
    """The seconds after which to ask again a service that did not answer.

    Raises:
        ServiceUnreachableError: it took longer than the timeout, or the connection broke the last time too.
    """
    import httpx

    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        raise ServiceUnreachableError(f"{where} did not answer in time; give the client a longer timeout_s") from error
    broken = isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout))
    if broken and attempt <= retries.most:
        return retries.wait_s(attempt, {})
    reason = str(error) or type(error).__name__
    raise ServiceUnreachableError(
        f"{where} cannot be reached, {_times(attempt)} ({reason}); is the service running there? guard serve GUARD"
    ) from error


def content(response: httpx.Response, where: str) -> Any:
    """The JSON of an answer.

    Raises:
        ServiceError: it is none, so that this is another service.
    """
    try:
        return response.json()
    except ValueError:
        raise ServiceError(f"{where} did not answer in JSON; is it a service of ood-guard?") from None


def _sentence(response: httpx.Response) -> str:
    """The service's own sentence, or the beginning of what a proxy before it says."""
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200] or "no reason was given"


def _times(attempt: int) -> str:
    return "asked once" if attempt == 1 else f"asked {attempt} times"
