"""A guard that needs no training, and one real `bentoml serve` process for the whole folder.

The graph is small enough to recompute by hand: mean colour / 255 * 10 are the logits of red, green and blue, and
ood_score = -logsumexp(logits): dark images are out-of-distribution.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from guard.artefact.files import write_onnx
from guard.manifest import Calibration, Manifest, Normalisation, Preprocess
from serving.runner import running_service

SIDE = 8
THRESHOLD = -4.0


def colour_graph() -> bytes:
    """images uint8 (N, 8, 8, 3), threshold float32 () with a default -> the four outputs of a guard."""
    from onnx import TensorProto, checker, helper, numpy_helper

    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
            node("ReduceMean", ["float", "pixels"], ["mean"], keepdims=0),
            node("Mul", ["mean", "scale"], ["logits"]),
            node("Softmax", ["logits"], ["probabilities"], axis=1),
            node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
            node("ReduceLogSumExp", ["logits", "classes"], ["lse"], keepdims=0),
            node("Neg", ["lse"], ["ood_score"]),
            node("Greater", ["ood_score", "threshold"], ["is_ood"]),
        ],
        "colours",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3]),
            helper.make_tensor_value_info("threshold", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("ood_score", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("is_ood", TensorProto.BOOL, ["batch"]),
        ],
        initializer=[
            numpy_helper.from_array(np.array([1, 2], np.int64), "pixels"),
            numpy_helper.from_array(np.array([1], np.int64), "classes"),
            numpy_helper.from_array(np.float32(10 / 255), "scale"),
            numpy_helper.from_array(np.float32(THRESHOLD), "threshold"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def calibration_scores() -> np.ndarray:
    """99 scores from -10 to -4 in ascending order; five of them lie above -4.3."""
    return np.linspace(-10, -4, 99, dtype="<f4")


def colour_manifest(*, calibrated: bool = True) -> Manifest:
    scores = calibration_scores()
    calibration = Calibration(
        alpha=0.05,
        n=len(scores),
        threshold=THRESHOLD,
        rate_low=0.017,
        rate_high=0.101,
        scores_base64=base64.b64encode(scores.tobytes()).decode(),
    )
    return Manifest(
        name="colours",
        class_names=("red", "green", "blue"),
        preprocess=Preprocess(height=SIDE, width=SIDE),
        normalisation=Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        method="plain",
        backbone="mean-colour",
        head="linear",
        score="energy",
        calibration=calibration if calibrated else None,
    )


def encoded(colour: tuple[int, int, int], *, size: tuple[int, int] = (SIDE, SIDE), format: str = "PNG") -> bytes:
    """One image of a single colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()


def expected_score(colour: tuple[int, int, int]) -> float:
    """-logsumexp of the logits, by its definition."""
    return float(-np.log(np.sum(np.exp(np.array(colour) / 255 * 10))))


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encoded`, for tests (conftest cannot be imported)."""
    return encoded


@pytest.fixture(scope="session")
def energy() -> Callable[[tuple[int, int, int]], float]:
    """`expected_score`, for tests."""
    return expected_score


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return colour_manifest()


@pytest.fixture(scope="session")
def write_guard() -> Callable[..., Path]:
    """write(path, calibrated=True) -> path of a colour guard."""
    graph = colour_graph()

    def write(path: Path, *, calibrated: bool = True) -> Path:
        write_onnx(path, graph, colour_manifest(calibrated=calibrated))
        return path

    return write


@pytest.fixture(scope="session")
def colour_guard(tmp_path_factory: pytest.TempPathFactory, write_guard: Callable[..., Path]) -> Path:
    return write_guard(tmp_path_factory.mktemp("guard") / "colours.onnx")


@pytest.fixture(scope="session")
def service(colour_guard: Path) -> Iterator[str]:
    """The address of a running service; limits small enough to meet."""
    limits = {"GUARD_MAX_BYTES": "300000", "GUARD_MAX_BATCH_BYTES": "600000", "GUARD_MAX_PIXELS": "1000000"}
    limits |= {"GUARD_MAX_BATCH_IMAGES": "8", "GUARD_TIMEOUT_S": "3"}
    with running_service(colour_guard, env=limits) as base:
        yield base


@pytest.fixture
def client(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=20, trust_env=False) as client:
        yield client
