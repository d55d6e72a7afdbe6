"""Every score and every head in every runtime that is here: OpenVINO decides like ONNX Runtime, TensorRT builds."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from export.precision.floats import in_half
from export.precision.integers import Quantiser
from export.to_tensorrt import build_engine
from guard.detector import Guard
from guard.runtimes.onnx_session import OnnxSession
from guard.runtimes.openvino_model import OpenVINOModel
from tests.random_guards import EVERY, exported

SOME = [(s, h) for s, h in EVERY if h != "cosine" or s == "energy"]


@functools.cache
def in_precision(score: str, head: str, precision: str) -> tuple[Guard, bytes]:
    """A random guard, and its graph in that precision."""
    g, graph = exported(score, head)
    if precision == "int8":
        images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
        return g, Quantiser(graph, [images], "tensorrt").quantised()
    return g, graph if precision == "fp32" else in_half(graph, precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(("score", "head"), SOME)
def test_tensorrt_builds(score: str, head: str, precision: str) -> None:
    """Running an engine needs a GPU: test_to_tensorrt.py does where there is one."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is in the dev extra, for platforms that have it")
    g, graph = in_precision(score, head, precision)
    engine, facts = build_engine(graph, g.manifest, max_batch=16, trt=trt)
    assert len(engine) > 10_000
    assert facts.flavour == "tensorrt_rtx"
    assert facts.version == trt.__version__
    assert facts.max_batch == 16
    assert facts.compute_capabilities


@pytest.mark.parametrize(("score", "head"), SOME)
def test_openvino_decides_alike(score: str, head: str) -> None:
    _, graph = exported(score, head)
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    images[:16] //= 16
    ours, theirs = OnnxSession(graph, device="cpu", threads=1), OpenVINOModel(graph, threads=1)
    scores = np.sort(ours.run(images).ood_score)
    between = float((scores[31] + scores[32]) / 2)  # flags half of them, and none lies on it
    a, b = ours.run(images, between), theirs.run(images, between)
    np.testing.assert_array_equal(b.label, a.label)
    np.testing.assert_array_equal(b.is_ood, a.is_ood)
    assert a.is_ood.sum() == 32
    np.testing.assert_allclose(b.probabilities, a.probabilities, atol=1e-5)
    np.testing.assert_allclose(b.ood_score, a.ood_score, rtol=1e-4, atol=1e-4)
