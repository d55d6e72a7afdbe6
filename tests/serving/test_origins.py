"""Pages of other origins: shut out by default, let in where GUARD_CORS_ORIGINS says so; and no query is ignored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from guard.errors import ConfigError
from serving.app import App
from serving.settings import Settings
from tests.serving.answers import RED, Encode, refused

ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
PAGE, OTHER = "https://app.example", "https://evil.example"


@pytest.fixture(scope="module")
def clients(colour_guard: Path) -> Iterator[dict[str, TestClient]]:
    """One application per value of the setting, in this process."""
    made = {text: TestClient(App(Settings(model=colour_guard, threads=1, cors_origins=text)).asgi) for text in
            ("", "*", f"{PAGE}, http://localhost:5173")}  # fmt: skip
    for client in made.values():
        client.__enter__()
    yield made
    for client in made.values():
        client.__exit__()


@pytest.fixture
def shut(clients: dict[str, TestClient]) -> TestClient:
    return clients[""]


@pytest.mark.parametrize("path", ["/predict", "/predict_batch", "/model"])
def test_by_default_no_page_is_let_in(path: str, shut: TestClient, encode: Encode) -> None:
    answer = shut.options(path, headers={"Origin": PAGE, **ASKS})
    assert answer.status_code == 405
    assert answer.json()["error"].endswith("GUARD_CORS_ORIGINS, which is empty")
    answer = shut.post("/predict", content=encode(RED), headers={"Origin": PAGE})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(("setting", "origin", "allowed"), [
    ("*", OTHER, "*"),
    ("*", "null", "*"),
    (f"{PAGE}, http://localhost:5173", PAGE, PAGE),
    (f"{PAGE}, http://localhost:5173", "http://localhost:5173", "http://localhost:5173"),
])  # fmt: skip
def test_a_page_that_is_let_in_may_ask_send_and_read(
    setting: str, origin: str, allowed: str, clients: dict[str, TestClient], encode: Encode
) -> None:
    client = clients[setting]
    asked = client.options("/predict", headers={"Origin": origin, **ASKS})
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == allowed
    assert asked.headers["access-control-allow-methods"] == "POST"
    assert asked.headers["access-control-allow-headers"] == "content-type"
    good = client.post("/predict", content=encode(RED), headers={"Origin": origin})
    bad = client.post("/predict", content=b"text", headers={"Origin": origin})
    nowhere = client.get("/nowhere", headers={"Origin": origin})
    assert [answer.status_code for answer in (good, bad, nowhere)] == [200, 400, 404]
    for answer in (good, bad, nowhere):
        assert answer.headers["access-control-allow-origin"] == allowed
        assert ("origin" in answer.headers.get("vary", "").lower()) == (setting != "*")


def test_another_page_is_refused(clients: dict[str, TestClient]) -> None:
    client = clients[f"{PAGE}, http://localhost:5173"]
    for origin in (OTHER, "http://app.example", f"{PAGE}:8443", "null"):
        answer = client.options("/predict", headers={"Origin": origin, **ASKS})
        assert answer.status_code == 403
        assert f"{origin!r} is not among those of GUARD_CORS_ORIGINS" in answer.json()["error"]
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in client.get("/model", headers={"Origin": origin}).headers


def test_options_without_a_question_is_a_wrong_method(clients: dict[str, TestClient]) -> None:
    for client in clients.values():
        assert client.options("/predict").status_code == 405


@pytest.mark.parametrize(
    "text", ["app.example", "https://app.example/", "https://a.example/b", "https://a b", "https://*.x"]
)
def test_what_is_no_origin_is_one_sentence(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.settings import read_settings

    monkeypatch.setenv("GUARD_CORS_ORIGINS", f"https://fine.example,{text}")
    with pytest.raises(ConfigError, match=r"is not an origin; give scheme and host without a path"):
        read_settings()


@pytest.mark.parametrize("path", ["/predict", "/predict_batch", "/model", "/metrics", "/ui", "/"])
@pytest.mark.parametrize(("query", "named"), [("threshold=1", "'threshold'"), ("a&b=2&a=3", "'a', 'b'"), ("=1", "''")])
def test_a_query_is_refused_and_named(path: str, query: str, named: str, shut: TestClient, encode: Encode) -> None:
    method = "POST" if path.startswith("/predict") else "GET"
    answer = shut.request(method, f"{path}?{query}", content=encode(RED) if method == "POST" else None)
    assert answer.status_code == 400
    but = " but 'model'" if path in ("/predict", "/predict_batch", "/model") else ""
    assert f"{path} takes no query parameters{but}, got {named}; leave them out" in answer.json()["error"]
    assert ("ood_score" in answer.json()["error"]) == ("threshold" in query)


def test_an_empty_query_is_none(shut: TestClient, encode: Encode) -> None:
    assert shut.post("/predict?", content=encode(RED)).status_code == 200


def test_over_http_too(client: httpx.Client, encode: Encode) -> None:
    refused(client.post("/predict?threshold=-1", content=encode(RED)), 400, "takes no query .* got 'threshold'")
    answer = client.options("/predict", headers={"Origin": PAGE, **ASKS})
    refused(answer, 405, "GUARD_CORS_ORIGINS")
