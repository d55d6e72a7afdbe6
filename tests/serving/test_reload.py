"""Rolling updates over real HTTP: two workers, a stream of requests, and artefacts of every kind put in place."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starlette.testclient import TestClient

from guard.artefact.files import graph_bytes, read_onnx, write_onnx
from guard.errors import MissingExtraError
from guard.manifest import Preprocess
from serving import admin
from serving.app import App
from serving.control import Control
from serving.reload import stage
from serving.runner import running_service
from serving.settings import Settings, read_settings
from tests.serving.answers import RED, Encode, refused

BEARER = {"Authorization": "Bearer let-me-in"}


@pytest.fixture(scope="module")
def artefact(write_guard: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guard(tmp_path_factory.mktemp("reload") / "guard.onnx")


def renamed(path: Path, name: str, **update: Any) -> None:
    """Write the guard again under another name, which is another identity."""
    data, manifest = read_onnx(path)
    write_onnx(path, graph_bytes(data), manifest.model_copy(update={"name": name, **update}))


@pytest.fixture(scope="module")
def base(artefact: Path) -> Iterator[str]:
    with running_service(artefact, workers=2, env={"GUARD_TOKEN": "let-me-in", "GUARD_THREADS": "1"}) as base:
        yield base


@pytest.fixture
def http(base: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base, timeout=60, trust_env=False, headers=BEARER) as client:
        yield client


class Stream(threading.Thread):
    """Requests one after another on new connections, so that both workers get some, until told to stop."""

    def __init__(self, base: str, image: bytes) -> None:
        super().__init__()
        self.base, self.image, self.ended = base, image, threading.Event()
        self.answers: list[tuple[int, str]] = []

    def run(self) -> None:
        async def one() -> None:
            while not self.ended.is_set():
                async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                    answer = await client.post(f"{self.base}/predict", content=self.image, headers=BEARER)
                    self.answers.append((answer.status_code, answer.json().get("model", "").partition("@")[0]))

        async def several() -> None:
            await asyncio.gather(*(one() for _ in range(4)))

        asyncio.run(several())

    def stop(self) -> list[tuple[int, str]]:
        self.ended.set()
        self.join(60)
        return self.answers


def test_a_reload_reaches_all_workers_and_loses_no_request(
    base: str, http: httpx.Client, artefact: Path, encode: Encode
) -> None:
    stream = Stream(base, encode(RED))
    stream.start()
    try:
        until(lambda: len(stream.answers) > 8)
        renamed(artefact, "second")
        answer = http.post("/admin/reload").json()
        assert (answer["workers"], answer["reloaded"], answer["errors"]) == (2, 2, [])
        assert (answer["before"].partition("@")[0], answer["identity"].partition("@")[0]) == ("colours", "second")
        after = [http.post("/predict", content=encode(RED)).json()["model"] for _ in range(5)]
        assert set(after) == {answer["identity"]}
    finally:
        answers = stream.stop()
    assert {status for status, _ in answers} == {200}
    assert {name for _, name in answers} == {"colours", "second"}


def test_what_cannot_be_served_leaves_the_old_one(
    http: httpx.Client, artefact: Path, tmp_path: Path, encode: Encode
) -> None:
    before = http.get("/model").json()["identity"]
    whole = artefact.read_bytes()
    artefact.write_bytes(whole[:-10])
    refused(http.post("/admin/reload"), 422, rf"{before} stays: .*guard\.onnx.*(cut short|changed|SHA-256)")
    artefact.write_bytes(whole)
    missing = {"path": str(tmp_path / "none.onnx")}
    refused(http.post("/admin/reload", json=missing), 422, "stays: no such guard: .*none.onnx")
    folder = {"path": str(tmp_path)}  # which is not copied to find out
    refused(http.post("/admin/reload", json=folder), 422, "stays: .* is not a run folder: it has no guard.json")
    for relative in ("", "none.onnx", "../guard.onnx"):
        refused(http.post("/admin/reload", json={"path": relative}), 422, "is relative, to a folder that nobody sees")
    refused(http.post("/admin/reload", json={"path": "~nobody-here/guard.onnx"}), 422, "stays: .* no home folder for")
    other = tmp_path / "larger.onnx"
    other.write_bytes(whole)
    renamed(other, "larger", preprocess=Preprocess(height=16, width=16))
    refused(http.post("/admin/reload", json={"path": str(other)}), 422, "stays: ")
    assert http.get("/model").json()["identity"] == before
    assert http.post("/predict", content=encode(RED)).status_code == 200


def test_orders_need_the_token_and_are_read_strictly(base: str, http: httpx.Client) -> None:
    refused(httpx.post(f"{base}/admin/reload", trust_env=False), 401, "token")
    refused(http.post("/admin/reload", content=b"{"), 400, "JSON")
    refused(http.post("/admin/reload", json={"modle": "guard"}), 400, "modle")
    refused(http.post("/admin/reload", json={"model": "cats"}), 404, "no model 'cats'")
    refused(http.get("/admin/reload"), 405, "takes POST only")


def test_a_service_without_a_token_takes_no_orders(client: httpx.Client) -> None:
    refused(client.post("/admin/reload"), 403, "GUARD_TOKEN")


def family(base: str) -> tuple[psutil.Process, list[psutil.Process]]:
    """(supervisor, workers) of the service at that address."""
    (supervisor,) = [p for p in psutil.Process().children() if base.rpartition(":")[2] in p.cmdline()]
    return supervisor, [p for p in supervisor.children() if _is_worker(p)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "_bentoml_impl.worker.service" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_hangup_reloads_and_a_killed_worker_comes_back_with_what_is_served(
    base: str, http: httpx.Client, artefact: Path, encode: Encode
) -> None:
    supervisor, workers = family(base)
    renamed(artefact, "third")
    supervisor.send_signal(signal.SIGHUP)

    def name() -> str:
        try:
            return str(httpx.get(f"{base}/model", headers=BEARER, trust_env=False, timeout=30).json()["name"])
        except httpx.TransportError:  # a connection to the worker that was killed
            return ""

    until(lambda: [name() for _ in range(10)] == ["third"] * 10)
    assert family(base)[1] == workers  # the same processes
    counted = http.get("/metrics").text
    artefact.write_bytes(b"damaged meanwhile")
    os.kill(workers[0].pid, signal.SIGKILL)
    until(lambda: len(family(base)[1]) == 2 and workers[0] not in family(base)[1])
    until(lambda: [name() for _ in range(10)] == ["third"] * 10)
    line = 'guard_images_total{model="guard",verdict="accepted"} '
    count = [float(text.partition(line)[2].partition("\n")[0]) for text in (counted, metrics(base))]
    assert count[1] >= count[0] > 5  # its images stay counted


def metrics(base: str) -> str:
    return httpx.get(f"{base}/metrics", headers=BEARER, trust_env=False, timeout=30).text


def test_an_error_of_any_kind_keeps_its_kind_and_names_the_source(
    write_guard: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = write_guard(tmp_path / "guard.onnx")

    def without_torch(copy: Path, settings: Settings) -> None:
        raise MissingExtraError(f"torch, which {copy} needs,", "train")

    monkeypatch.setattr("serving.reload.load_guard", without_torch)
    (tmp_path / "control").mkdir()
    control = Control(tmp_path / "control")
    with pytest.raises(MissingExtraError, match=rf"torch, which {artefact} needs, is not installed; run: pip install"):
        stage(control, read_settings(model=artefact), "guard", artefact)


def test_a_reload_is_not_ended_by_the_time_of_a_request(
    write_guard: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artefact would be served after a 503 that said: send it again."""
    artefact, stage_at_once = write_guard(tmp_path / "guard.onnx"), admin.stage

    def slowly(*arguments: Any) -> Any:
        time.sleep(1.0)
        return stage_at_once(*arguments)

    monkeypatch.setattr(admin, "stage", slowly)
    app = App(read_settings(model=artefact, token="let-me-in", timeout_s=0.5))
    with TestClient(app.asgi, headers=BEARER) as client:
        answer = client.post("/admin/reload")
        assert (answer.status_code, answer.json()["reloaded"]) == (200, 1)
