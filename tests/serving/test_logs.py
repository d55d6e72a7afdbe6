"""Log lines and request ids: sane, echoed, one JSON object a line, and nothing of what was sent."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from serving import logs
from serving.app import App
from serving.runner import running_service
from serving.settings import Settings
from tests.serving.answers import RED, Encode


@pytest.fixture(scope="module")
def app(colour_guard: Path) -> App:
    return App(Settings(model=colour_guard, threads=1, access_log=True))


@pytest.fixture(scope="module")
def http(app: App) -> Iterator[TestClient]:
    with TestClient(app.asgi) as client:
        yield client


@pytest.fixture
def lines(http: TestClient) -> Iterator[io.StringIO]:
    """What the service logs meanwhile, as JSON."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logs.JsonLines())
    names = ("guard.access", "guard.serving")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    yield text
    for name in names:
        logging.getLogger(name).removeHandler(handler)
        logging.getLogger(name).setLevel(before[name])


def read(text: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.getvalue().splitlines()]


def test_a_request_id_is_echoed_where_it_is_sane_and_else_made(http: TestClient) -> None:
    assert http.get("/model", headers={"X-Request-Id": "trace-1.a:b/c=="}).headers["x-request-id"] == "trace-1.a:b/c=="
    for strange in ("", "a b", "x" * 129, "a\tb", "<script>", "é"):
        answer = http.get("/model", headers={"X-Request-Id": strange.encode("latin-1")})
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"]), strange
    made = {http.get("/nowhere").headers["x-request-id"] for _ in range(20)}
    assert len(made) == 20


def test_the_access_line_says_what_was_answered_and_nothing_of_what_was_sent(
    http: TestClient, lines: io.StringIO, encode: Encode
) -> None:
    sent = {"X-Request-Id": "me-1", "Authorization": "Bearer hidden"}
    http.post("/predict", files={"image": ("my-name.png", encode(RED))}, headers=sent)
    http.get("/made/up?secret=5")
    first, second = read(lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(first["time"]))
    assert {name: first[name] for name in ("level", "logger", "request_id", "method", "path", "status")} == {
        "level": "info",
        "logger": "guard.access",
        "request_id": "me-1",
        "method": "POST",
        "path": "/predict",
        "status": 200,
    }
    assert 0 < float(str(first["ms"])) < 60_000
    assert (second["path"], second["status"]) == ("other", 404)
    for hidden in ("my-name", "hidden", "PNG", "made/up", "secret"):
        assert hidden not in lines.getvalue()


def test_a_defect_is_one_line_with_its_traceback_and_the_requests_id(
    http: TestClient, app: App, lines: io.StringIO, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken at /secret/path")

    monkeypatch.setattr(app.worker.models.get().engine, "verdict", broken)
    answer = http.post("/predict", content=encode(RED), headers={"X-Request-Id": "me-2"})
    assert answer.status_code == 500
    assert answer.json() == {"error": "the service failed on this request; its log says why"}
    failed, accessed = read(lines)
    assert (failed["level"], failed["request_id"], failed["message"]) == ("error", "me-2", "POST /predict failed")
    assert "broken at /secret/path" in str(failed["exception"])
    assert accessed["status"] == 500
    assert "PNG" not in lines.getvalue()


def test_a_running_service_logs_json_lines_only(colour_guard: Path, tmp_path: Path, encode: Encode) -> None:
    log = tmp_path / "log"
    settings = {"GUARD_LOG": "json", "GUARD_ACCESS_LOG": "true", "GUARD_TOKEN": "hidden-token"}
    with running_service(colour_guard, env=settings, log=log) as base:
        with httpx.Client(base_url=base, trust_env=False, headers={"Authorization": "Bearer hidden-token"}) as client:
            assert client.post("/predict", content=encode(RED), headers={"X-Request-Id": "me-3"}).status_code == 200
        assert httpx.get(f"{base}/model", trust_env=False).status_code == 401
    written = log.read_text()
    found = [json.loads(line) for line in written.splitlines()]
    assert [line for line in found if line.get("request_id") == "me-3" and line["path"] == "/predict"]
    assert [line for line in found if str(line["message"]).startswith("serving colours@")]
    assert "hidden-token" not in written
