"""Triton's own HTTP client against a running service."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from tests.serving.answers import BLUE, DARK, RED, Encode
from tests.serving.test_open_inference import NAMES, pixels

triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is an extra of the tests")


@pytest.fixture
def asked(service: str) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(urlsplit(service).netloc, network_timeout=20, connection_timeout=20)
    yield client
    client.close()


def test_health_and_metadata(asked: triton.InferenceServerClient, colour_guard: object) -> None:
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert asked.is_model_ready("guard")
    assert not asked.is_model_ready("other")
    assert asked.get_server_metadata()["name"] == "ood-guard"
    found = asked.get_model_metadata("guard")
    assert asked.is_model_ready("guard", found["versions"][0])
    assert [one["name"] for one in found["outputs"]] == NAMES


@pytest.mark.parametrize("sent_binary", [True, False])
@pytest.mark.parametrize("answered_binary", [True, False, None])
def test_pixels(
    asked: triton.InferenceServerClient, client: httpx.Client, encode: Encode, sent_binary: bool, answered_binary: bool
) -> None:
    images = triton.InferInput("images", [3, 8, 8, 3], "UINT8")
    images.set_data_from_numpy(pixels(RED, DARK, BLUE), binary_data=sent_binary)
    wanted = None  # all, as binary data
    if answered_binary is not None:
        wanted = [triton.InferRequestedOutput(name, binary_data=answered_binary) for name in NAMES]
    answer = asked.infer("guard", [images], outputs=wanted, request_id="7")
    assert answer.get_response()["id"] == "7"
    single = [client.post("/predict", content=encode(colour)).json() for colour in (RED, DARK, BLUE)]
    for name in ("label", "ood_score", "is_ood", "p_value"):
        assert answer.as_numpy(name).tolist() == [one[name] for one in single], name
    assert answer.as_numpy("probabilities").shape == (3, 3)


def test_image_files(asked: triton.InferenceServerClient, client: httpx.Client, encode: Encode) -> None:
    files = [encode(colour, size=(50, 40), format="JPEG") for colour in (BLUE, RED)]
    encoded = triton.InferInput("encoded", [2], "BYTES")
    encoded.set_data_from_numpy(np.array(files, dtype=np.object_))
    answer = asked.infer("guard", [encoded], outputs=[triton.InferRequestedOutput("ood_score")])
    assert answer.as_numpy("ood_score").tolist() == [
        client.post("/predict", content=file).json()["ood_score"] for file in files
    ]
    assert answer.as_numpy("label") is None


def test_a_refusal_is_its_sentence(asked: triton.InferenceServerClient) -> None:
    images = triton.InferInput("images", [1, 4, 4, 3], "UINT8")
    images.set_data_from_numpy(np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(triton.InferenceServerException, match=r"\[400\] input 'images' must be UINT8 of shape"):
        asked.infer("guard", [images])
