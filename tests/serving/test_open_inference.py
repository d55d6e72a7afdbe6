"""The Open Inference Protocol on its wire format: answers equal /predict's, JSON and binary, and what is refused."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

import guard
from guard.artefact.files import read_onnx
from serving.app import App
from serving.settings import Settings
from tests.serving.answers import BLUE, DARK, RED, Encode, refused

INFER = "/v2/models/guard/infer"
NAMES = ["label", "probabilities", "ood_score", "is_ood", "p_value"]
DTYPES = {"INT64": "<i8", "FP32": "<f4", "BOOL": "?", "FP64": "<f8"}


@pytest.fixture(scope="module")
def http(colour_guard: Path) -> Iterator[TestClient]:
    """An application in this process; limits small enough to meet."""
    settings = Settings(model=colour_guard, threads=1, max_batch_images=4, max_json_bytes=20_000, max_bytes=5000)
    with TestClient(App(settings).asgi) as client:
        yield client


def pixels(*colours: tuple[int, int, int]) -> np.ndarray:
    """uint8 (n, 8, 8, 3), each image of one colour."""
    return np.tile(np.array(colours, np.uint8)[:, None, None, :], (1, 8, 8, 1))


def tensor(name: str, array: np.ndarray | list[str], datatype: str, **more: Any) -> dict[str, Any]:
    data = array.reshape(-1).tolist() if isinstance(array, np.ndarray) else array
    shape = list(array.shape) if isinstance(array, np.ndarray) else [len(array)]
    return {"name": name, "shape": shape, "datatype": datatype, "data": data, **more}


def ask(*inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), **more}


def binary(body: dict[str, Any], *tensors: bytes) -> dict[str, Any]:
    """What httpx sends: JSON, then the tensors, and the header that says where they begin."""
    text = json.dumps(body).encode()
    return {"content": text + b"".join(tensors), "headers": {"Inference-Header-Content-Length": str(len(text))}}


def outputs(response: httpx.Response) -> dict[str, np.ndarray]:
    """Every output as an array, wherever its data is."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get("inference-header-content-length", len(response.content)))
    head, rest, found = json.loads(response.content[:length]), response.content[length:], {}
    for one in head["outputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        flat = np.array(one["data"]) if size is None else np.frombuffer(rest[:size], DTYPES[one["datatype"]])
        rest = rest[size or 0 :]
        found[one["name"]] = flat.astype(DTYPES[one["datatype"]]).reshape(one["shape"])
    assert rest == b""
    return found


# ---------------------------------------------------------------------------------------------------------- metadata


def test_the_server_and_its_health(http: TestClient) -> None:
    server = {"name": "ood-guard", "version": guard.__version__, "extensions": ["binary_tensor_data"]}
    assert http.get("/v2").json() == server
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}


def test_the_model_says_what_it_takes_and_gives(http: TestClient, colour_guard: Path) -> None:
    version = read_onnx(colour_guard)[1].identity.partition("@")[2]
    found = http.get("/v2/models/guard").json()
    assert found == http.get(f"/v2/models/guard/versions/{version}").json()
    assert (found["name"], found["versions"], found["platform"]) == ("guard", [version], "onnxruntime_onnx")
    assert found["inputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]},
        {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
        {"name": "threshold", "datatype": "FP32", "shape": [1]},
    ]
    assert [(one["name"], one["datatype"], one["shape"]) for one in found["outputs"]] == [
        ("label", "INT64", [-1]),
        ("probabilities", "FP32", [-1, 3]),
        ("ood_score", "FP32", [-1]),
        ("is_ood", "BOOL", [-1]),
        ("p_value", "FP64", [-1]),
    ]
    ready = {"name": "guard", "ready": True}
    assert http.get("/v2/models/guard/ready").json() == ready
    assert http.get(f"/v2/models/guard/versions/{version}/ready").json() == ready


@pytest.mark.parametrize("rest", ["", "/ready"])
def test_another_model_or_version_is_not_there(http: TestClient, rest: str) -> None:
    refused(http.get(f"/v2/models/other{rest}"), 404, "no model 'other' is served here; there are guard")
    refused(
        http.get(f"/v2/models/guard/versions/1{rest}"), 404, "model 'guard' is served in version '[0-9a-f]{12}' only"
    )
    refused(http.post("/v2/models/other/infer", json={}), 404, "no model 'other'")


# ------------------------------------------------------------------------------------------------------------- answers


def test_pixels_files_json_and_binary_are_answered_alike_and_as_predict_does(http: TestClient, encode: Encode) -> None:
    colours = (RED, DARK, BLUE)
    files, array = [encode(colour) for colour in colours], pixels(*colours)
    bytes_tensor = b"".join(struct.pack("<I", len(file)) + file for file in files)
    as_binary = {"parameters": {"binary_data_output": True}}
    size = lambda data: {"parameters": {"binary_data_size": len(data)}}  # noqa: E731
    images = {"name": "images", "shape": list(array.shape), "datatype": "UINT8"}
    encoded = {"name": "encoded", "shape": [3], "datatype": "BYTES"}
    ways = [
        {"json": ask(tensor("images", array, "UINT8"))},
        {"json": ask({**images, "data": array.tolist()})},  # nested
        {"json": ask(tensor("encoded", [base64.b64encode(file).decode() for file in files], "BYTES"))},
        {"json": ask(tensor("images", array, "UINT8"), **as_binary)},
        binary(ask({**images, **size(array.tobytes())}, **as_binary), array.tobytes()),
        binary(ask({**encoded, **size(bytes_tensor)}), bytes_tensor),
    ]
    single = [http.post("/predict", content=file).json() for file in files]
    for way in ways:
        found = outputs(http.post(INFER, **way))
        assert list(found) == NAMES
        for name in ("label", "ood_score", "is_ood", "p_value"):
            assert found[name].tolist() == [answer[name] for answer in single], (name, way)
        best = found["probabilities"][np.arange(3), found["label"]]
        assert best.tolist() == [answer["probability"] for answer in single]
        assert found["probabilities"].sum(1) == pytest.approx(1, abs=1e-6)


def test_the_id_comes_back_and_the_model_says_its_version(http: TestClient, colour_guard: Path) -> None:
    answer = http.post(INFER, json=ask(tensor("images", pixels(RED), "UINT8"), id="é 42")).json()
    assert (answer["id"], answer["model_name"]) == ("é 42", "guard")
    assert f"colours@{answer['model_version']}" == read_onnx(colour_guard)[1].identity
    assert "id" not in http.post(INFER, json=ask(tensor("images", pixels(RED), "UINT8"))).json()


def test_outputs_are_chosen_each_as_json_or_binary(http: TestClient) -> None:
    wanted = [{"name": "p_value"}, {"name": "label", "parameters": {"binary_data": True}}, {"name": "is_ood"}]
    body = ask(tensor("images", pixels(RED, DARK), "UINT8"), outputs=wanted)
    response = http.post(INFER, json=body)
    assert list(outputs(response)) == ["p_value", "label", "is_ood"]
    assert response.headers["content-type"] == "application/octet-stream"
    head = json.loads(response.content[: int(response.headers["inference-header-content-length"])])
    assert ["data" in one for one in head["outputs"]] == [True, False, True]
    wanted[0]["parameters"] = {"binary_data": False}
    body["parameters"] = {"binary_data_output": True}  # the output's own word counts
    assert len(outputs(http.post(INFER, json=body))) == 3


@pytest.mark.parametrize("threshold", [-1e9, -20.0, 0.0, 1e9])
def test_a_threshold_decides_as_it_does_in_python(http: TestClient, colour_guard: Path, threshold: float) -> None:
    array = pixels(RED, DARK, BLUE)
    own = guard.load(colour_guard, device="cpu").predict(array, threshold=threshold)
    body = ask(tensor("images", array, "UINT8"), {"name": "threshold", "shape": [1], "datatype": "FP32"})
    body["inputs"][1]["data"] = [threshold]
    assert outputs(http.post(INFER, json=body))["is_ood"].tolist() == own.is_ood.tolist()


def test_an_uncalibrated_p_value_is_null_in_json_and_nan_in_binary(
    write_guard: Callable[..., Path], tmp_path: Path
) -> None:
    settings = Settings(model=write_guard(tmp_path / "raw.onnx", calibrated=False), threads=1)
    with TestClient(App(settings).asgi) as client:
        body = ask(tensor("images", pixels(RED), "UINT8"), outputs=[{"name": "p_value"}])
        assert client.post(INFER, json=body).json()["outputs"][0]["data"] == [None]
        body["parameters"] = {"binary_data_output": True}
        assert np.isnan(outputs(client.post(INFER, json=body))["p_value"]).all()


# ------------------------------------------------------------------------------------------------------------- refused

GOOD = tensor("images", pixels(RED), "UINT8")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([], "not an inference request: "),
        ({}, "inputs: Field required"),
        (ask(GOOD, colour="red"), "colour: Extra inputs are not permitted"),
        (ask(tensor("pictures", pixels(RED), "UINT8")), r"inputs\.0\.name: Input should be 'images', 'encoded'"),
        (ask({**GOOD, "shape": [1, 8, 8]}), r"must be UINT8 of shape \[-1, 8, 8, 3\].* got UINT8 of shape \[1, 8, 8\]"),
        (ask({**GOOD, "shape": [1, 9, 8, 3]}), "files of any size go into 'encoded'"),
        (ask({**GOOD, "datatype": "FP32"}), "got FP32 of shape"),
        (ask({**GOOD, "data": [0] * 191}), r"the data is 191 values, its shape says \[1, 8, 8, 3\]"),
        (ask({**GOOD, "data": [[0], [0, 1]]}), "differ in length or depth"),
        (ask({**GOOD, "data": [[0], 1]}), "differ in length or depth"),
        (ask({**GOOD, "data": [256] + [0] * 191}), r"must lie in 0 \.\. 255, got 0 \.\. 256"),
        (ask({**GOOD, "data": [True] + [0] * 191}), "UINT8 data must not hold a boolean"),
        (ask({**GOOD, "data": [0.5] + [0] * 191}), "UINT8 data must not hold a number"),
        (ask({**GOOD, "data": [None] * 192}), "UINT8 data must not hold a null"),
        (ask({**GOOD, "shape": [0, 8, 8, 3], "data": []}), "has no images"),
        (ask({k: v for k, v in GOOD.items() if k != "data"}), "has neither data nor"),
        (ask(GOOD, GOOD), "'images' is given twice"),
        (ask(GOOD, tensor("encoded", ["aa"], "BYTES")), "give one of the inputs"),
        (ask(tensor("threshold", np.zeros(1), "FP32")), "give one of the inputs"),
        (ask(GOOD, tensor("threshold", np.array([10**400], object), "FP32")), "too large for FP32"),
        (ask(GOOD, {**tensor("threshold", np.zeros(1), "FP32"), "data": [False]}), "must not hold a boolean"),
        (ask(tensor("encoded", ["***"], "BYTES")), "must be base64"),
        (ask(tensor("encoded", ["\ud800"], "BYTES")), "not an inference request|must be base64"),
        (ask(tensor("encoded", ["aGVsbG8="], "BYTES")), "^image 0: not an image"),
        (ask(GOOD, outputs=[]), "outputs: Tuple should have at least 1 item"),
        (ask(GOOD, outputs=[{"name": "cat"}]), r"outputs\.0\.name"),
        (ask(GOOD, outputs=[{"name": "label"}] * 2), "'label' is asked for twice"),
        (
            ask(GOOD, outputs=[{"name": "label", "parameters": {"classification": 3}}]),
            "'classification' of 'label'",
        ),
        (ask(GOOD, parameters={"sequence_id": 1}), "'sequence_id' of the request is not offered"),
        (ask(GOOD, parameters={"binary_data_output": 1}), "must be true or false, got 1"),
        (ask(GOOD, parameters={"a": {}}), "parameters.a"),
        (ask({**GOOD, "parameters": {"binary_data_size": 192}}), "both data and the parameter"),
        (ask({**GOOD, "data": None, "parameters": {"binary_data_size": 192}}), "needs the header Inference-Header"),
    ],
)
def test_what_json_cannot_ask(http: TestClient, body: Any, sentence: str) -> None:
    text = json.dumps(body, default=int)
    refused(http.post(INFER, content=text), 400, sentence)


@pytest.mark.parametrize("text", [b"", b"{", b"nothing", b"\xff", b'{"inputs": NaN}', b"[" * 10_000])
def test_what_is_no_json(http: TestClient, text: bytes) -> None:
    refused(http.post(INFER, content=text), 400, "not an inference request")


@pytest.mark.parametrize(
    ("change", "data", "length", "sentence"),
    [
        ({}, b"\0" * 191, None, r"binary_data_size must be 0 \.\. 191 here, got 192"),
        ({}, b"\0" * 193, None, "1 bytes follow the JSON"),
        ({"parameters": {"binary_data_size": 191}}, b"\0" * 191, None, "is 192 bytes, binary_data_size says 191"),
        ({"parameters": {"binary_data_size": True}}, b"\0" * 192, None, "got True"),
        ({"parameters": {"binary_data_size": -1}}, b"\0" * 192, None, "got -1"),
        ({}, b"\0" * 192, "9999", "must be the length of the JSON"),
        ({}, b"\0" * 192, "-1", "must be the length of the JSON"),
        ({}, b"\0" * 192, "9" * 5000, "must be the length of the JSON"),
        ({}, b"\0" * 192, "0" * 6000 + "9999", "must be the length of the JSON"),
        ({"name": "encoded", "datatype": "BYTES", "shape": [2]}, b"\xff" * 192, None, "does not hold 2 elements"),
        ({"name": "encoded", "datatype": "BYTES", "shape": [4]}, b"\0" * 192, None, "does not hold 4 elements"),
        ({"name": "threshold", "datatype": "FP32", "shape": [1]}, b"\0" * 192, None, r"FP32 of shape \[1\] is 4 bytes"),
    ],
)
def test_binary_data_that_does_not_fit(
    http: TestClient, change: dict[str, Any], data: bytes, length: str | None, sentence: str
) -> None:
    image = {"name": "images", "shape": [1, 8, 8, 3], "datatype": "UINT8", "parameters": {"binary_data_size": 192}}
    sent = binary(ask({**image, **change}), data)
    if length is not None:
        sent["headers"]["Inference-Header-Content-Length"] = length
    refused(http.post(INFER, **sent), 400, sentence)


def test_not_a_number_is_no_threshold(http: TestClient) -> None:
    nan = struct.pack("<f", np.nan)
    body = ask(GOOD, {"name": "threshold", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}})
    refused(http.post(INFER, **binary(body, nan)), 400, "got NaN")


def test_limits(http: TestClient, encode: Encode) -> None:
    refused(http.post(INFER, json=ask(tensor("images", pixels(*[RED] * 5), "UINT8"))), 413, "more than 4 images")
    large = {"name": "images", "shape": [2**62, 8, 8, 3], "datatype": "UINT8", "parameters": {"binary_data_size": 0}}
    refused(http.post(INFER, **binary(ask(large))), 413, "more than 4 images")  # nothing is made of that size
    refused(http.post(INFER, content=b" " * 20_001), 413, "20001 bytes, at most 20000.*GUARD_MAX_JSON_BYTES")
    file = b"\x89PNG" + b"x" * 5000
    data = struct.pack("<I", len(file)) + file
    big = {"name": "encoded", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    refused(http.post(INFER, **binary(ask(big), data)), 413, "^image 0: the image has 5004 bytes, at most 5000")
    refused(http.get(INFER), 405, "takes POST only")
    refused(http.post("/v2"), 405, "takes GET only")
