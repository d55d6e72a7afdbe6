"""/drift, its gauges and its file, over real HTTP; and that dashboard and alerts name metrics that are there."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from starlette.testclient import TestClient

import guard
from guard.monitoring import DriftReport
from serving.app import App
from serving.drift_tests import DriftTests
from serving.models import Model
from serving.runner import running_service
from serving.settings import read_settings
from tests.serving.answers import DARK, RED, Encode

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drift")


@pytest.fixture(scope="module")
def watched(colour_guard: Path, folder: Path) -> Iterator[str]:
    """Two workers and one file."""
    with running_service(colour_guard, workers=2, env={"GUARD_DRIFT_FOLDER": str(folder)}) as base:
        yield base


def drift(base: str) -> DriftReport:
    return DriftReport.model_validate_json(httpx.get(f"{base}/drift", trust_env=False, timeout=20).content)


def send(base: str, body: bytes, times: int) -> None:
    for _ in range(times):  # a connection each, so that both workers get some
        assert httpx.post(f"{base}/predict", content=body, trust_env=False, timeout=30).status_code == 200


def test_two_workers_add_up_and_a_killed_one_loses_nothing(watched: str, folder: Path, encode: Encode) -> None:
    before = drift(watched).images
    send(watched, encode(RED), 8)
    send(watched, encode(DARK), 4)
    assert drift(watched).images == before + 12
    victims = [p for p in psutil.process_iter() if p.ppid() != 1 and _serves(p, watched)]
    os.kill(victims[0].pid, signal.SIGKILL)
    deadline, counted = time.monotonic() + 60, 0
    while counted < 6 and time.monotonic() < deadline:
        try:
            send(watched, encode(RED), 1)
            counted += 1
        except (httpx.HTTPError, AssertionError):
            time.sleep(0.1)
    report = drift(watched)
    assert report.images >= before + 12 + 6
    assert report.flagged >= 4
    assert {c.class_name: c.images for c in report.classes}["red"] == report.images
    assert len(list(folder.glob("*.drift*"))) == 1


def _serves(process: psutil.Process, base: str) -> bool:
    """Whether it is a worker of the service at this address."""
    port = int(base.rpartition(":")[2])
    try:
        parents = [p.cmdline() for p in process.parents()]
        return "_bentoml_impl.worker" in " ".join(process.cmdline()) and any(str(port) in line for line in parents)
    except psutil.Error:
        return False


def test_the_alarm_is_raised_and_told_and_reset(
    write_guard: Callable[..., Path], tmp_path: Path, encode: Encode
) -> None:
    guard_file = write_guard(tmp_path / "colours.onnx")
    kept = {"GUARD_DRIFT_FOLDER": str(tmp_path / "kept")}
    with running_service(guard_file, env=kept) as base:
        assert drift(base).capital == 1
        send(base, encode(DARK), 25)
        report = drift(base)
        assert (report.alarm, report.images, report.flagged) == (True, 25, 25)
        assert 0 < (report.alarm_at or 0) < 25
        metrics = httpx.get(f"{base}/metrics", trust_env=False).text
        assert 'guard_drift_alarm{model="guard"} 1.0' in metrics
        assert 'guard_drift_images{model="guard"} 25.0' in metrics
        assert 'guard_drift_flag_rate{model="guard"} 1.0' in metrics
    with running_service(guard_file, env=kept) as base:  # the state outlives the service
        assert drift(base).model_dump(exclude={"curve"}) == report.model_dump(exclude={"curve"})


def in_process(path: Path, **settings: Any) -> TestClient:
    return TestClient(App(read_settings(model=path, **settings)).asgi)


def test_it_can_be_switched_off(colour_guard: Path, encode: Encode) -> None:
    with in_process(colour_guard, drift=False) as client:
        assert client.post("/predict", content=encode(RED)).status_code == 200
        answer = client.get("/drift")
        assert (answer.status_code, "GUARD_DRIFT" in answer.json()["error"]) == (404, True)
        assert "guard_drift_alarm{" not in client.get("/metrics").text


def test_an_uncalibrated_guard_has_no_test(write_guard: Callable[..., Path], tmp_path: Path, encode: Encode) -> None:
    with in_process(write_guard(tmp_path / "plain.onnx", calibrated=False)) as client:
        assert client.post("/predict", content=encode(RED)).status_code == 200
        answer = client.get("/drift")
        assert (answer.status_code, "not calibrated" in answer.json()["error"]) == (404, True)


def test_a_folder_that_cannot_be_written_costs_no_answer(
    colour_guard: Path, tmp_path: Path, encode: Encode, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with in_process(colour_guard, drift_folder=tmp_path / "file" / "in") as client:
        assert client.post("/predict", content=encode(RED)).status_code == 200
        assert client.get("/drift").status_code == 404
    assert caplog.text.count("no drift test runs") == 1


def test_a_reset_is_an_order_that_needs_the_token(colour_guard: Path, encode: Encode) -> None:
    with in_process(colour_guard) as client:
        assert client.post("/admin/drift/reset").status_code == 403
    with in_process(colour_guard, token="secret-of-sixteen") as client:
        bearer = {"Authorization": "Bearer secret-of-sixteen"}
        for _ in range(20):
            client.post("/predict", content=encode(DARK), headers=bearer)
        assert client.get("/drift", headers=bearer).json()["alarm"] is True
        refused = client.post("/admin/drift/reset", headers={"Authorization": "Bearer another"})
        assert refused.status_code == 401
        assert client.get("/drift", headers=bearer).json()["images"] == 20
        report = client.post("/admin/drift/reset", headers=bearer).json()
        assert (report["images"], report["alarm"], report["resets"], report["capital"]) == (0, False, 1, 1)
        client.post("/predict", content=encode(RED), headers=bearer)
        assert client.get("/drift", headers=bearer).json()["images"] == 1


def test_alpha_is_a_setting(colour_guard: Path, tmp_path: Path) -> None:
    with in_process(colour_guard, drift_alpha=0.05, drift_folder=tmp_path) as client:
        assert client.get("/drift").json()["alpha"] == 0.05


def test_an_explanation_holds_what_predict_answers(colour_guard: Path, encode: Encode) -> None:
    with in_process(colour_guard) as client:
        plain = client.post("/predict", content=encode(DARK)).json()
        explained = client.post("/explain", content=encode(DARK)).json()
        form = client.post("/explain", files={"image": encode(DARK)})
        assert explained["answer"] == plain
        assert form.json() == explained
        assert [top["label"] for top in explained["top"]] == [0, 1, 2]
        assert sum(top["probability"] for top in explained["top"]) == pytest.approx(1)
        assert (explained["parts"], explained["nearest"]) == ([], [])
        assert client.get("/drift").json()["images"] == 3
        assert client.post("/explain", content=b"no image").status_code == 400


def named_metrics(text: str) -> set[str]:
    return set(re.findall(r"\bguard_[a-z0-9_]+", text))


def test_dashboard_and_alerts_name_metrics_that_the_service_has(watched: str, encode: Encode) -> None:
    send(watched, encode(RED), 2)
    exported = named_metrics(httpx.get(f"{watched}/metrics", trust_env=False).text)
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = yaml.safe_load((DEPLOY / "prometheus-alerts.yaml").read_text())
    rules = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert (len(panels) > 10, len(rules) > 3) == (True, True)
    for expression in (*panels, *rules):
        assert named_metrics(expression), expression
        assert named_metrics(expression) <= exported, expression


def test_a_guard_that_is_calibrated_again_begins_a_test_of_its_own(colour_guard: Path, tmp_path: Path) -> None:
    settings = read_settings(model=colour_guard, drift_folder=tmp_path)
    g = guard.load(colour_guard, runtime="onnxruntime", device="cpu")
    calibration = g.manifest.calibration
    assert calibration is not None
    again = g.with_calibration(calibration.scores + 1, alpha=0.05)
    assert again.manifest.identity == g.manifest.identity
    models = [Model("guard", colour_guard, which, settings, lambda _: None) for which in (g, again)]
    tests = DriftTests(settings)
    first, second = (tests.test(model) for model in models)
    assert first is not None
    assert second is not None
    assert first.path != second.path
    first.add_one(0.0, 0, False)
    assert (first.report().images, second.report().images) == (1, 0)
