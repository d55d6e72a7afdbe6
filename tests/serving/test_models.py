"""Several guards in one service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import serving.app
from guard.artefact.files import write_onnx
from serving.app import App
from serving.settings import Settings, read_settings
from tests.serving.answers import RED, Encode, refused

Write = Callable[..., Path]


@pytest.fixture
def two(write_guard: Write, tmp_path: Path, manifest: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """GUARD_MODELS of two guards that name their classes differently."""
    from guard.artefact.files import graph_bytes, read_onnx

    monkeypatch.setattr(serving.app, "_freeze", lambda: None)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    first = write_guard(tmp_path / "first.onnx")
    other = manifest.model_copy(update={"name": "farben", "class_names": ("rot", "gruen", "blau")})
    write_onnx(tmp_path / "second.onnx", graph_bytes(read_onnx(first)[0]), other)
    return f"en={first}, de={tmp_path / 'second.onnx'}"


def asked(settings: Settings, *requests: tuple[str, str, bytes | None]) -> list[httpx.Response]:
    """The answers to (method, path, body) of one app."""

    async def inside() -> list[httpx.Response]:
        app = App(settings).asgi
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return [await client.request(method, path, content=body) for method, path, body in requests]

    return asyncio.run(inside())


def test_the_request_chooses_and_the_first_is_the_default(two: str, encode: Encode) -> None:
    image = encode(RED)
    default, de, en, card, unknown, twice, text = asked(
        Settings(models=two, device="cpu"),
        ("POST", "/predict", image),
        ("POST", "/predict?model=de", image),
        ("POST", "/predict?model=en", image),
        ("GET", "/model?model=de", None),
        ("POST", "/predict?model=fr", image),
        ("POST", "/predict?model=de&model=en", image),
        ("GET", "/metrics", None),
    )
    assert [answer.json()["class_name"] for answer in (default, de, en)] == ["red", "rot", "red"]
    assert (default.json()["model"].split("@")[0], de.json()["model"].split("@")[0]) == ("colours", "farben")
    assert card.json()["class_names"] == ["rot", "gruen", "blau"]
    refused(unknown, 404, "no model 'fr' is served here; there are en, de")
    refused(twice, 400, "'model' is given 2 times")
    assert 'guard_images_total{model="en",verdict="accepted"} 2.0' in text.text
    assert 'guard_ood_score_count{model="de"} 1.0' in text.text
    assert 'guard_info{identity="farben@' in text.text


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ("a.onnx", "'a.onnx' is not name=path"),
        ("=a.onnx", "is not name=path"),
        ("a/b=a.onnx", "is not name=path"),
        ("a=", "is not name=path"),
        ("a=x.onnx,a=y.onnx", "the name 'a' is given twice"),
    ],
)
def test_wrong_lists_are_one_sentence(models: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUARD_MODEL", raising=False)
    with pytest.raises(ValueError, match=sentence):
        read_settings(models=models)


def test_one_guard_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="give one guard or several, not both"):
        read_settings(model="a.onnx", models="b=c.onnx")
