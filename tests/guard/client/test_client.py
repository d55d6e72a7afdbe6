"""Both clients against a service that is played by the test: what is sent, taken, tried again and refused."""

from __future__ import annotations

import asyncio
import inspect
import math
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import numpy as np
import pytest

import guard
from guard.client.retrying import Retries, retry_after_s
from guard.errors import (
    ConfigError,
    GuardError,
    ImageError,
    ServiceError,
    ServiceOverloadedError,
    ServiceRefusedError,
    ServiceUnreachableError,
)

ANSWER = {"label": 3, "class_name": "cat", "probability": 0.91, "ood_score": -4.1, "threshold": -2.2, "is_ood": False}
ANSWER |= {"p_value": 0.41, "model": "pets@1f0c9d2b7e55"}
IMAGE = np.zeros((4, 5, 3), np.uint8)
Handler = Callable[[httpx.Request], httpx.Response]


class Played:
    """A service that answers with these, in order, and the last one for ever; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)  # a fresh one


def busy(retry_after: str | None = "0", status: int = 503) -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(status, headers=headers, json={"error": "the service is full"})


@pytest.fixture(params=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """ask(service, "predict", image, url=...): the result of that method of either client."""

    def ask(service: Handler, method: str, *arguments: Any, **options: Any) -> Any:
        url = options.pop("url", "http://guard.example/cars")
        called = {name: options.pop(name) for name in ("model", "batch_size") if name in options}
        transport = httpx.MockTransport(service)
        if request.param == "Client":
            with guard.Client(url, transport=transport, **options) as client:
                return getattr(client, method)(*arguments, **called)

        async def inside() -> Any:
            async with guard.AsyncClient(url, transport=transport, **options) as client:
                return await getattr(client, method)(*arguments, **called)

        return asyncio.run(inside())

    return ask


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for; none is made."""
    seen: list[float] = []
    turn = asyncio.sleep

    async def pause(seconds: float) -> None:
        seen.append(seconds)
        await turn(0)

    monkeypatch.setattr("guard.client.blocking.time.sleep", seen.append)
    monkeypatch.setattr("guard.client.awaiting.asyncio.sleep", pause)
    return seen


def test_a_verdict(ask: Callable[..., Any]) -> None:
    service = Played(httpx.Response(200, json=ANSWER | {"field_of_a_later_version": 1}))
    verdict = ask(service, "predict", IMAGE, token="secret")
    assert isinstance(verdict, guard.Verdict)
    assert verdict.to_dict() == ANSWER
    (request,) = service.seen
    assert (request.method, str(request.url)) == ("POST", "http://guard.example/cars/predict")
    assert request.headers["authorization"] == "Bearer secret"
    assert request.content.startswith(b"\x89PNG")


def test_no_token_is_no_header_and_a_model_is_a_query(ask: Callable[..., Any]) -> None:
    service = Played(httpx.Response(200, json=ANSWER))
    ask(service, "predict", IMAGE, model="a b", url="http://guard.example")
    assert "authorization" not in service.seen[0].headers
    assert str(service.seen[0].url) == "http://guard.example/predict?model=a+b"


def test_an_uncalibrated_guard_has_neither_threshold_nor_p_value(ask: Callable[..., Any]) -> None:
    raw = ANSWER | {"threshold": None, "p_value": None}
    verdict = ask(Played(httpx.Response(200, json=raw)), "predict", IMAGE)
    assert verdict.threshold == math.inf
    assert math.isnan(verdict.p_value)
    assert verdict.to_dict() == raw


def test_a_batch_is_asked_in_pieces_and_answered_in_order(ask: Callable[..., Any]) -> None:
    def service(request: httpx.Request) -> httpx.Response:
        names = [part.split(b'"')[1] for part in request.content.split(b"filename=")[1:]]
        return httpx.Response(200, json={"verdicts": [ANSWER | {"label": int(name)} for name in names]})

    images = np.zeros((5, 20, 20, 3), np.uint8)
    assert [v.label for v in ask(service, "predict_batch", images, batch_size=2)] == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        ask(service, "predict_batch", images, batch_size=0)


def test_card_drift_and_readiness(ask: Callable[..., Any]) -> None:
    service = Played(httpx.Response(200, json={"identity": "x"}))
    assert ask(service, "model") == ask(service, "drift") == {"identity": "x"}
    assert ask(service, "ready") is True
    assert [request.url.path for request in service.seen] == ["/cars/model", "/cars/drift", "/cars/readyz"]
    assert ask(Played(httpx.Response(503)), "ready") is False
    assert ask(Played(httpx.ConnectError("refused")), "ready") is False


def test_overload_is_waited_out_as_announced(ask: Callable[..., Any], waits: list[float]) -> None:
    service = Played(busy("2"), busy("3", 429), busy(None), busy("999"), httpx.Response(200, json=ANSWER))
    assert ask(service, "predict", IMAGE).label == 3
    assert [len(service.seen), len(waits)] == [5, 4]
    first, second, third, fourth = waits
    assert 2 <= first <= 2.5
    assert 3 <= second <= 3.75
    assert 0.4 <= third <= 0.5  # no Retry-After: the third pause of 0.1, 0.2, 0.4 ...
    assert fourth == 10  # never longer, whatever the service says


def test_overload_that_does_not_end_is_an_error(ask: Callable[..., Any], waits: list[float]) -> None:
    service = Played(busy())
    with pytest.raises(ServiceOverloadedError, match=r"cars is overloaded, asked 3 times \(503\): the service is full"):
        ask(service, "predict", IMAGE, retries=2)
    assert [len(service.seen), len(waits)] == [3, 2]


def test_a_broken_connection_is_tried_again(ask: Callable[..., Any]) -> None:
    broken = [httpx.ConnectError("refused"), httpx.RemoteProtocolError("cut"), httpx.ReadError("reset")]
    assert ask(Played(*broken, httpx.Response(200, json=ANSWER)), "predict", IMAGE).label == 3
    service = Played(httpx.ConnectError("Connection refused"))
    with pytest.raises(ServiceUnreachableError, match=r"asked 2 times \(Connection refused\); is the service running"):
        ask(service, "predict", IMAGE, retries=1)
    assert len(service.seen) == 2


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (httpx.Response(400, json={"error": "not an image"}), ServiceRefusedError, r"request \(400\): not an image"),
        (httpx.Response(401, text="<html>who?"), ServiceRefusedError, r"\(401\): <html>who\?"),
        (httpx.Response(500, json={"error": "its log says why"}), ServiceError, r"failed \(500\): its log says why"),
        (httpx.Response(307, headers={"location": "/ui"}), ServiceError, "elsewhere .307.; .* '/ui'"),
        (httpx.Response(200, text="hello"), ServiceError, "did not answer in JSON; is it a service of ood-guard"),
        (httpx.Response(200, json=[1]), ServiceError, r"not answer with a verdict but with '\[1\]'"),
        (httpx.ReadTimeout("slow"), ServiceUnreachableError, "did not answer in time; .* longer timeout_s"),
    ],
)
def test_what_is_wrong_is_asked_once_and_said(
    ask: Callable[..., Any], answer: Any, error: type[GuardError], sentence: str
) -> None:
    service = Played(answer)
    with pytest.raises(error, match=sentence) as caught:
        ask(service, "predict", IMAGE)
    assert len(service.seen) == 1
    if isinstance(caught.value, ServiceRefusedError):
        assert caught.value.status == answer.status_code


def test_what_is_no_image_is_not_sent(ask: Callable[..., Any]) -> None:
    service = Played(httpx.Response(200, json=ANSWER))
    with pytest.raises(ImageError):
        ask(service, "predict", 3.5)
    with pytest.raises(ConfigError, match="one image, got 2; give them to predict_batch"):
        ask(service, "predict", [IMAGE, IMAGE])
    assert service.seen == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"url": "guard.example"}, "url must be like http"),
        ({"url": "ftp://guard.example"}, "url must be like http"),
        ({"url": "http://x/?a=1"}, "without"),
        ({"url": "http://127.0.0.1:abc"}, "url must be like http"),
        ({"url": "http://[::1"}, "url must be like http"),
        ({"url": 3000}, "url must be like http"),
        ({"token": ""}, "token must be"),
        ({"token": "se\ncret"}, "token must be"),
        ({"token": b"secret"}, "token must be"),
        ({"timeout_s": 0}, "timeout_s must be above 0"),
        ({"timeout_s": math.inf}, "timeout_s must be a finite number, got inf"),
        ({"timeout_s": "30"}, "timeout_s must be a finite number, got '30'"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"retries": "3"}, "retries must be a whole number, got '3'"),
        ({"longest_wait_s": -1}, "longest_wait_s must be at least 0"),
        ({"longest_wait_s": None}, "longest_wait_s must be a finite number, got None"),
    ],
)
@pytest.mark.parametrize("kind", [guard.Client, guard.AsyncClient])
def test_arguments_are_checked_and_a_token_is_never_shown(kind: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        kind(**{"url": "http://x", **options})
    assert "cret" not in str(caught.value)


def test_neither_token_nor_password_is_in_a_representation() -> None:
    client = guard.Client("http://me:hidden@x/y", token="secret")
    assert repr(client) == "Client('http://x/y')"
    assert "secret" not in repr(vars(client))


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    def shape(kind: type) -> dict[str, list[str]]:
        public = {name: member for name, member in vars(kind).items() if name[0] != "_" or name == "__init__"}
        return {name: list(inspect.signature(member).parameters) for name, member in public.items()}

    assert shape(guard.Client) == shape(guard.AsyncClient)
    assert all(inspect.getdoc(member) for name, member in vars(guard.AsyncClient).items() if name[0] != "_")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), (" 7 ", 7), (None, None), ("soon", None), ("-3", None), ("1.5", None), ("9" * 400, 999999999)],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value) == seconds


def test_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 95 < (retry_after_s(later) or 0) <= 100
    assert retry_after_s("Thu, 01 Jan 1970 00:00:00 GMT") == 0


def test_pauses_differ_between_clients() -> None:
    pauses = {Retries().wait_s(1, {"retry-after": "1"}) for _ in range(20)}
    assert len(pauses) > 10
    assert 1 <= min(pauses) <= max(pauses) <= 1.25


def test_without_httpx_one_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['httpx'] = None\nimport guard\n"
        "try: guard.Client('http://x')\nexcept guard.errors.MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "httpx is not installed; run: pip install 'ood-guard[client]'"


def test_importing_guard_does_not_import_httpx() -> None:
    code = "import guard, sys; guard.Client; print('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_wait_for_a_connection_of_the_clients_own_is_not_the_services_silence() -> None:
    """httpx opens a hundred connections; what waits for one was not sent."""
    for client in (guard.Client("http://x", timeout_s=3), guard.AsyncClient("http://x", timeout_s=3)):
        times = client._http.timeout
        assert (times.connect, times.read, times.write, times.pool) == (3, 3, 3, None)
