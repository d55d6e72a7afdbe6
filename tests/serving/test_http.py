"""The HTTP contract over real HTTP: what is answered, alone and among many."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest

from guard.artefact.files import read_onnx
from tests.serving.answers import BLUE, DARK, RED, Encode, refused


def test_a_verdict_has_the_contracts_fields(
    client: httpx.Client, encode: Encode, energy: Callable[..., float], colour_guard: Path
) -> None:
    answer = client.post("/predict", files={"image": ("red.png", encode(RED))}).json()
    assert answer == {
        "label": 0,
        "class_name": "red",
        "probability": pytest.approx(np.exp(10) / (np.exp(10) + 2), abs=1e-6),
        "ood_score": pytest.approx(energy(RED), abs=1e-5),
        "threshold": -4.0,
        "is_ood": False,
        "p_value": 1.0,
        "model": read_onnx(colour_guard)[1].identity,
    }
    assert re.fullmatch(r"colours@[0-9a-f]{12}", answer["model"])


def test_a_dark_image_is_flagged(client: httpx.Client, encode: Encode) -> None:
    answer = client.post("/predict", content=encode(DARK)).json()
    assert answer["is_ood"] is True
    assert answer["ood_score"] > answer["threshold"]
    assert answer["p_value"] == pytest.approx(1 / 100)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_format_is_recognised_by_content_whatever_it_is_called(
    client: httpx.Client, encode: Encode, format: str
) -> None:
    data = encode(BLUE, size=(40, 30), format=format)
    form = client.post("/predict", files={"image": ("photo.png", data, "image/png")})
    raw = client.post("/predict", content=data, headers={"content-type": "image/jpeg"})
    assert (form.status_code, form.json()["class_name"]) == (200, "blue")
    assert raw.json() == form.json()


def test_a_batch_answers_in_the_order_sent_as_single_requests_do(client: httpx.Client, encode: Encode) -> None:
    images = [encode(colour) for colour in (BLUE, DARK, RED, BLUE)]
    names = ["images", "image", "images", "images"]
    form = [(name, (f"{i}.png", data)) for i, (name, data) in enumerate(zip(names, images, strict=True))]
    verdicts = client.post("/predict_batch", files=form).json()["verdicts"]
    assert verdicts == [client.post("/predict", content=data).json() for data in images]
    assert [v["class_name"] for v in verdicts] == ["blue", "red", "red", "blue"]


def test_the_model_card(client: httpx.Client) -> None:
    card = client.get("/model").json()
    assert card["class_names"] == ["red", "green", "blue"]
    assert card["calibration"]["threshold"] == -4.0
    assert "scores_base64" not in card["calibration"]
    assert sum(card["calibration"]["histogram"]["counts"]) == card["calibration"]["n"] == 99


def test_health(client: httpx.Client) -> None:
    assert [client.get(path).status_code for path in ("/livez", "/readyz", "/healthz")] == [200, 200, 200]


def test_the_root_leads_to_the_page_and_nothing_loads_from_outside(client: httpx.Client) -> None:
    response = client.get("/", follow_redirects=True)
    assert str(response.url).endswith("/ui")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert "<title>ood-guard</title>" in response.text
    for hidden in ("/docs.json", "/static_content/swagger-ui.css", "/docs"):
        assert client.get(hidden).status_code == 404


def test_metrics_count_what_happened(client: httpx.Client, encode: Encode) -> None:
    def read() -> dict[str, float]:
        lines = [line for line in client.get("/metrics").text.splitlines() if line and line[0] != "#"]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    names = [
        'guard_images_total{model="guard",verdict="flagged"}',
        'guard_images_total{model="guard",verdict="accepted"}',
        'guard_requests_total{code="200",endpoint="/predict"}',
        'guard_requests_total{code="400",endpoint="/predict"}',
        'guard_requests_total{code="404",endpoint="other"}',
        'guard_p_value_bucket{le="0.01",model="guard"}',
        'guard_ood_score_count{model="guard"}',
        "guard_batch_size_sum",
    ]
    before = read()
    for body in (encode(RED), encode(DARK), b"no image"):
        client.post("/predict", content=body)
    for i in range(3):
        client.get(f"/made-up/{i}")
    after = read()
    assert [after[name] - before.get(name, 0) for name in names] == [1, 1, 2, 1, 3, 1, 2, 2]
    facts = ("guard_target_false_alarm_rate", "guard_threshold")
    assert [after[f'{name}{{model="guard"}}'] for name in facts] == [0.05, -4]
    assert after["guard_in_work"] == 0
    assert not any("made-up" in name for name in after)  # paths are no labels: they would be kept for ever


def test_the_worker_runs_without_torch(service: str) -> None:
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if "_bentoml_impl.worker.service" in process.cmdline()
    ]
    assert workers
    for worker in workers:
        loaded = Path(f"/proc/{worker.pid}/maps").read_text()
        assert "onnxruntime" in loaded  # or this test would look at the wrong process
        assert "libtorch" not in loaded


# ----------------------------------------------------------------------------------------------------------- together


def test_bad_images_among_many_hurt_nobody_else(service: str, encode: Encode) -> None:
    """BentoML's own batching answered 500 to 604 of 620 good requests around 2 truncated images."""
    good = {colour: encode(colour, size=(50, 40)) for colour in (RED, BLUE, DARK)}
    names = {RED: "red", BLUE: "blue", DARK: "red"}
    poison = [good[RED][:-30], b"text", b""]
    order = [list(good)[i % 3] if i % 8 else None for i in range(240)]

    async def scenario() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=32)
        async with httpx.AsyncClient(base_url=service, limits=limits, timeout=30, trust_env=False) as client:
            bodies = [good[colour] if colour else poison[i % 3] for i, colour in enumerate(order)]
            return await asyncio.gather(*(client.post("/predict", content=body) for body in bodies))

    for colour, response in zip(order, asyncio.run(scenario()), strict=True):
        if colour is None:
            refused(response, 400, "not an image|damaged or cut short|empty")
        else:
            assert response.status_code == 200, response.text
            assert response.json()["class_name"] == names[colour]
            assert response.json()["is_ood"] == (colour == DARK)


def test_clients_that_leave_are_harmless(service: str, client: httpx.Client, encode: Encode) -> None:
    host, image = urlsplit(service), encode(RED, size=(300, 300))
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n".encode()

    def leave(sent: int) -> None:
        with socket.create_connection((host.hostname, host.port), timeout=20) as connection:
            connection.sendall((head + image)[:sent])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, np.linspace(1, len(head + image), 40).astype(int).tolist()))
    assert client.post("/predict", content=image).json()["class_name"] == "red"
    deadline = time.monotonic() + 20
    while "\nguard_in_work 0.0\n" not in (metrics := client.get("/metrics").text):  # the last one's may still be scored
        assert time.monotonic() < deadline, metrics
    assert 'code="499",endpoint="/predict"' in metrics
    assert 'code="500"' not in metrics
