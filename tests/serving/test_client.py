"""`guard.Client` and `guard.AsyncClient` against a running service: the verdicts are those of the guard itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import guard
from guard.errors import ServiceRefusedError
from tests.serving.answers import BLUE, DARK, RED, Encode


def test_every_form_of_an_image_is_judged_as_the_guard_does(service: str, colour_guard: Path, tmp_path: Path) -> None:
    g = guard.load(colour_guard, device="cpu")
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "a.png")
    forms = [array, picture, tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()]
    own = g.predict(array)[0].to_dict() | {"model": g.manifest.identity}
    with guard.Client(service, transport=httpx.HTTPTransport()) as client:
        assert client.ready()
        assert [client.predict(form).to_dict() for form in forms] == [own] * 5
        assert [v.to_dict() for v in client.predict_batch(forms, batch_size=3)] == [own] * 5
        assert client.model()["identity"] == g.manifest.identity
        assert client.drift()["model"] == g.manifest.identity
        with pytest.raises(ServiceRefusedError, match=r"refused the request \(400\): not an image; accepted: JPEG"):
            client.predict(b"hello, I am text")
        with pytest.raises(ServiceRefusedError, match=r"\(400\): image 1 \('1'\): not an image"):
            client.predict_batch([array, b"hello, I am text"])


def test_many_at_once(service: str, encode: Encode) -> None:
    async def scenario() -> list[str]:
        async with guard.AsyncClient(service, transport=httpx.AsyncHTTPTransport()) as client:
            asked = [client.predict(encode(colour, size=(40, 30))) for colour in (RED, BLUE, DARK) * 8]
            return [verdict.class_name for verdict in await asyncio.gather(*asked)]

    assert asyncio.run(scenario()) == ["red", "blue", "red"] * 8
