"""Machines that have a GPU and TensorRT, both played, and a small guard's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from guard.artefact.files import write_onnx
from tests.fake_tensorrt import GPU, Cuda, install, tensorrt
from tests.serving.conftest import colour_graph, colour_manifest

OTHER = "NVIDIA Other"

Machine = Callable[..., ModuleType]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Go to a machine with that GPU and TensorRT; None: without one."""

    def machine(gpu: str = GPU, version: str | None = "10.9.0.34", **more: bool) -> Any:
        cuda = Cuda(gpu)
        trt = None if version is None else tensorrt(version, cuda, **more)
        install(monkeypatch, cuda, trt)
        return trt

    return machine


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "guard.onnx"
    write_onnx(path, colour_graph(), colour_manifest())
    return path
