"""What a session is opened with, read back from ONNX Runtime's own options."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from guard.errors import ConfigError
from guard.runtimes import onnx_settings
from guard.runtimes.onnx_session import OnnxSession
from guard.runtimes.onnx_settings import session_options, session_settings
from tests.serving.conftest import colour_graph

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)


def spins(options: Any) -> bool:
    try:
        return bool(options.get_session_config_entry("session.intra_op.allow_spinning") != "0")
    except RuntimeError:  # not set: ONNX Runtime spins
        return True


@pytest.mark.parametrize(
    ("given", "threads", "spinning", "pattern"),
    [
        ({}, 0, True, True),  # 0: ONNX Runtime's own choice, all cores
        ({"tuned_for": "latency", "threads": 3}, 3, True, True),
        ({"tuned_for": "throughput"}, 1, False, False),
        ({"tuned_for": "throughput", "threads": 2}, 2, False, False),
    ],
)
def test_each_purpose_has_its_settings(
    given: dict[str, Any], threads: int, spinning: bool, pattern: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_settings, "limited_cores", lambda: None)
    options = session_options(ort, session_settings(**given))
    assert options.intra_op_num_threads == threads
    assert spins(options) == spinning
    assert options.enable_mem_pattern == pattern
    assert options.enable_cpu_mem_arena
    assert options.inter_op_num_threads == 1
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def test_fewer_cores_than_the_hosts_set_the_threads_of_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota or an affinity mask: ONNX Runtime itself looks at neither."""
    monkeypatch.setattr(onnx_settings, "limited_cores", lambda: 2)
    assert session_settings("latency").threads == 2
    assert session_settings("throughput").threads == 1
    monkeypatch.setattr(onnx_settings, "limited_cores", lambda: None)
    assert session_settings("latency").threads is None


def test_an_optimised_graph_is_not_optimised_again() -> None:
    options = session_options(ort, dataclasses.replace(session_settings(), optimisation="none"))
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_the_purpose_decides_nothing() -> None:
    graph = colour_graph()
    a, b = (OnnxSession(graph, device="cpu", threads=1, tuned_for=name) for name in ("latency", "throughput"))
    np.testing.assert_array_equal(a.run(IMAGES).ood_score, b.run(IMAGES).ood_score)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"tuned_for": "speed"}, "tuned_for must be 'latency' or 'throughput', got 'speed'"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_what_is_not_a_setting_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        session_settings(**given)
