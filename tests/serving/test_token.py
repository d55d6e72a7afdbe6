"""GUARD_TOKEN: asked for everywhere but where it is said not to be, and never shown."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from guard.errors import ConfigError
from serving.app import App
from serving.errors import Refusal
from serving.settings import Settings, read_settings
from serving.token import Token
from tests.serving.answers import RED, Encode, refused

SECRET = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {SECRET}"}
OPEN = {"/", "/ui", "/v2/health/live", "/v2/health/ready"}  # beside /livez, /readyz and /healthz, which are BentoML's


@pytest.fixture(scope="module")
def app(colour_guard: Path) -> App:
    return App(Settings(model=colour_guard, threads=1, token=SECRET, cors_origins="https://app.example"))


@pytest.fixture(scope="module")
def http(app: App) -> Iterator[TestClient]:
    with TestClient(app.asgi, raise_server_exceptions=False) as client:
        yield client


def test_every_path_but_health_and_the_page_needs_it(app: App, http: TestClient) -> None:
    routes = app._router.routes
    assert {path for path, route in routes.items() if route.open and not path.startswith("/ui/")} == OPEN
    for path, route in routes.items():
        if route.open:
            continue
        for method in route.methods:
            answer = http.request(method, path.format(name="guard", version="1"))
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="ood-guard"')
            if method != "HEAD":
                refused(answer, 401, "this service needs its token; send the header Authorization: Bearer TOKEN")
    refused(http.get("/nowhere"), 401, "needs its token")
    assert [http.get(path).status_code for path in sorted(OPEN)] == [200] * 4


def test_with_it_the_service_answers(http: TestClient, encode: Encode) -> None:
    assert http.post("/predict", content=encode(RED), headers=BEARER).json()["class_name"] == "red"
    assert http.post("/predict", content=encode(RED), headers={"Authorization": f"bearer  {SECRET} "}).is_success
    assert http.get("/metrics", headers=BEARER).status_code == 200
    refused(http.get("/nowhere", headers=BEARER), 404, "no such path")


@pytest.mark.parametrize(
    "given", ["Bearer", "Bearer ", "Bearer x", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", "Bearer é"]
)
def test_another_token_is_refused_and_not_repeated(http: TestClient, given: str) -> None:
    answer = http.get("/model", headers={"Authorization": given.encode("latin-1")})
    refused(answer, 401, "the token is not that of this service|needs its token")
    assert SECRET[:-1] not in answer.text


@pytest.mark.parametrize("given", [f"Basic {SECRET}", SECRET, f"Token {SECRET}", ""])
def test_another_scheme_is_none(http: TestClient, given: str) -> None:
    refused(http.get("/model", headers={"Authorization": given}), 401, "needs its token")


def test_it_is_no_query_parameter(http: TestClient) -> None:
    refused(http.get(f"/model?token={SECRET}"), 401, "needs its token")


def test_a_browsers_preflight_brings_none_and_its_page_can_read_the_401(http: TestClient) -> None:
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    asks["Access-Control-Request-Headers"] = "authorization"
    answer = http.options("/predict", headers=asks)
    assert (answer.status_code, answer.headers["access-control-allow-headers"]) == (204, "authorization")
    unread = http.post("/predict", headers={"Origin": "https://app.example"})
    assert (unread.status_code, unread.headers["access-control-allow-origin"]) == (401, "https://app.example")


def test_it_is_in_no_log_and_no_representation(
    http: TestClient, app: App, encode: Encode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the runtime broke")

    monkeypatch.setattr(app.worker.models.get().engine, "verdict", broken)
    with caplog.at_level(logging.DEBUG):
        http.get("/model", headers={"Authorization": f"Bearer {SECRET}x"})
        assert http.post("/predict", content=encode(RED), headers=BEARER).status_code == 500
    assert "the runtime broke" in caplog.text
    assert SECRET not in caplog.text
    settings = app.worker.settings
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()} {app._token!r}"
    assert "SecretStr" in repr(settings)


@pytest.mark.parametrize("secret", ["", " ", "two\nlines", "é", " padded"])
def test_a_token_that_could_not_be_sent_is_refused_and_not_shown(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_TOKEN", secret)
    with pytest.raises(ConfigError, match="GUARD_TOKEN") as caught:
        read_settings()
    assert secret == "" or secret not in str(caught.value).replace(" ", "" if secret == " " else " ")


def test_orders_need_a_token_to_be_set() -> None:
    with pytest.raises(Refusal, match="takes no orders; start it with GUARD_TOKEN set") as caught:
        Token(None).demand({})
    assert caught.value.status == 403
    with pytest.raises(Refusal) as caught:
        Token("a").demand({"authorization": "Bearer b"})
    assert caught.value.status == 401
    Token("a").demand({"authorization": "Bearer a"})
    Token(None).check({})


def test_the_comparison_takes_the_same_way_whatever_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("serving.token.hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    token = Token("secret")
    for given in ("s", "secret", "secreT", "x" * 5000):
        with contextlib.nullcontext() if given == "secret" else pytest.raises(Refusal):
            token.check({"authorization": f"Bearer {given}"})
    assert len(compared) == 4
    assert {len(part) for pair in compared for part in pair} == {32}


def test_the_answer_is_json_like_every_other(http: TestClient) -> None:
    assert json.loads(http.get("/model").text).keys() == {"error"}
