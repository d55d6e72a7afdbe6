"""What every answer tells a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serving.app import App
from serving.settings import Settings
from tests.serving.answers import RED, Encode


@pytest.fixture(scope="module")
def http(colour_guard: Path) -> Iterator[TestClient]:
    with TestClient(App(Settings(model=colour_guard, threads=1)).asgi, follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize("path", ["/predict", "/model", "/metrics", "/ui", "/", "/nowhere", "/v2"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_every_answer_has_the_headers_once(http: TestClient, path: str, method: str, encode: Encode) -> None:
    headers = http.request(method, path, content=encode(RED)).headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["no-referrer"]
    (policy,) = headers.get_list("content-security-policy")
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert (rules["default-src"], rules["frame-ancestors"]) == ("'none'", "'none'")
    assert "unsafe" not in policy
    assert "*" not in policy


def test_only_the_page_may_run_anything(http: TestClient) -> None:
    assert "script-src" in http.get("/ui").headers["content-security-policy"]
    assert "script-src" not in http.get("/model").headers["content-security-policy"]
