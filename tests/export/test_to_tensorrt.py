"""TensorRT engines are built for every score and head on this machine; running them needs a GPU."""

from __future__ import annotations

import json
import logging

import numpy as np
import onnx
import pytest

import guard
from export.to_onnx import onnx_bytes
from export.to_tensorrt import build_engine, engine_graph
from guard.artefact.files import engine_manifest_path, read_pair
from guard.detector import Guard
from guard.errors import ArtefactDamagedError, ConfigError, EngineMismatchError, ExportError, RuntimeUnavailableError
from guard.runtimes.gpu import cuda_available
from guard.runtimes.tensorrt_engine import TensorRTEngine
from tests.random_guards import make_guard

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is in the dev extra, for platforms that have it")


def test_threshold_becomes_an_input_that_must_be_given() -> None:
    g = make_guard("energy", "linear")
    graph = onnx_bytes(g.module, g.manifest)
    assert "threshold" in {i.name for i in onnx.load_from_string(graph).graph.initializer}
    plain = onnx.load_from_string(engine_graph(graph)).graph
    assert "threshold" not in {i.name for i in plain.initializer}
    assert "threshold" in {i.name for i in plain.input}


def calibrated_guard() -> Guard:
    """With a threshold per class and a temperature."""
    g = make_guard("energy", "linear")
    images = np.random.default_rng(0).integers(0, 256, (120, 16, 16, 3), dtype=np.uint8)
    labels = g.predict(images).label
    labels[::5] = (labels[::5] + 1) % 4
    return g.calibrate(images, labels=labels, class_conditional=True, min_class_images=19, temperature_scaling=True)


def test_a_calibration_per_class_builds_and_its_inputs_must_be_given() -> None:
    g = calibrated_guard()
    graph = onnx_bytes(g.module, g.manifest)
    plain = onnx.load_from_string(engine_graph(graph)).graph
    names = {"threshold", "class_offsets", "inverse_temperature"}
    assert names <= {i.name for i in plain.input}
    assert not names & {i.name for i in plain.initializer}
    engine, _ = build_engine(graph, g.manifest, max_batch=4, trt=trt)
    assert len(engine) > 10_000


@pytest.mark.skipif(not cuda_available(), reason="running an engine needs a GPU")
def test_an_engine_decides_by_class_like_torch(tmp_path) -> None:
    g = calibrated_guard()
    images = np.random.default_rng(1).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    path = guard.export(g, tmp_path / "guard.engine", max_batch=8, data=images)
    e = guard.load(path)
    assert e.runtime.optional_inputs == {"class_offsets", "inverse_temperature"}
    assert guard.verify(path, against=g, data=images).flag_flips == 0
    np.testing.assert_allclose(e.predict(images).probabilities, g.predict(images).probabilities, atol=1e-4)
    np.testing.assert_array_equal(e.predict(images).is_ood, e.runtime.run(images).is_ood)


def test_export_writes_the_engine_and_its_manifest(tmp_path, caplog) -> None:
    g = make_guard("energy", "linear")
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        path = guard.export(g, tmp_path / "guard.engine", max_batch=4)
    engine, manifest = read_pair(path, engine_manifest_path(path))
    assert manifest.engine is not None
    assert manifest.engine.max_batch == 4
    assert manifest.class_names == g.class_names
    if not cuda_available():
        assert manifest.parity is None  # never a made-up measurement
        assert "not run" in caplog.text
    damaged = bytearray(engine)
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(ArtefactDamagedError, match="changed or cut short"):
        guard.load(path)


def test_a_manifest_with_another_engine_version_is_refused(tmp_path) -> None:
    g = make_guard("energy", "linear")
    path = guard.export(g, tmp_path / "guard.engine", max_batch=4)
    _, manifest = read_pair(path, engine_manifest_path(path))
    other = manifest.model_copy(update={"engine": manifest.engine.model_copy(update={"version": "0.9.0"})})
    with pytest.raises(EngineMismatchError, match=r"built with tensorrt_rtx 0\.9\.0, installed is"):
        TensorRTEngine(b"", other)


def test_an_engine_exports_from_an_onnx_guard_too(tmp_path) -> None:
    g = make_guard("knn", "linear")
    onnx_path = guard.export(g, tmp_path / "guard.onnx")
    path = guard.export(guard.load(onnx_path), tmp_path / "guard.engine", max_batch=2)
    assert json.loads(engine_manifest_path(path).read_text())["manifest"]["score"] == "knn"


@pytest.mark.skipif(cuda_available(), reason="checks the sentence on machines without a GPU")
def test_without_a_gpu_the_sentence_says_so(tmp_path) -> None:
    path = guard.export(make_guard("energy", "linear"), tmp_path / "guard.engine", max_batch=2)
    with pytest.raises(RuntimeUnavailableError, match="this machine shows none"):
        guard.load(path)
    with pytest.raises(ConfigError, match="runs on CUDA only"):
        guard.load(path, device="cpu")


@pytest.mark.skipif(not cuda_available(), reason="running an engine needs a GPU")
def test_an_engine_decides_like_torch(tmp_path) -> None:
    g = make_guard("energy", "linear")
    path = guard.export(g, tmp_path / "guard.engine", max_batch=8)
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    report = guard.verify(path, against=g, data=images)
    assert report.flag_flips == 0


def test_a_graph_that_tensorrt_cannot_parse_is_named() -> None:
    g = make_guard("energy", "linear")
    model = onnx.load_from_string(onnx_bytes(g.module, g.manifest))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match="cannot parse this graph"):
        build_engine(model.SerializeToString(), g.manifest, trt=trt)


def test_a_batch_below_one_is_refused() -> None:
    g = make_guard("energy", "linear")
    with pytest.raises(ConfigError, match="max_batch must be at least 1, got 0"):
        build_engine(b"", g.manifest, max_batch=0, trt=trt)
