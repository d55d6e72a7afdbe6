"""OpenVINO behind the `Runtime` protocol: it reads the same ONNX file. Imports openvino, never torch.

OpenVINO takes an input that has a default for a constant. Here those of the guard are turned into inputs again, so that
a new threshold needs no new file. It computes in float32: its own choice would be bf16 on processors that have it,
which moves scores by more than lies between an image and its threshold.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..artefact.onnx_defaults import graph_inputs
from ..cores import available_cores
from ..errors import ArtefactDamagedError, ConfigError, MissingExtraError
from . import Outputs, check_images

_OUTPUTS = ("label", "probabilities", "ood_score", "is_ood")


class OpenVINOModel:
    """Runs a checked guard graph on the CPU.

    Args:
        model: bytes of the file (from `guard.artefact.files.read_onnx`) or its path.
        device: "auto" or "cpu".
        threads: of one run; None for `available_cores`.
        tuned_for: "latency" or "throughput": OpenVINO's performance hint.
        integers: whether int8 kernels may be used (`int8_kernels`).

    Raises:
        MissingExtraError: openvino is not installed.
        ConfigError: another device, or no thread.
        ArtefactDamagedError: not a graph that OpenVINO can read.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        model: bytes | str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        tuned_for: str = "latency",
        integers: bool = True,
    ) -> None:
        if device not in ("auto", "cpu"):
            raise ConfigError(f"runtime='openvino' runs on the CPU, got device={device!r}; use device='cpu'")
        if threads is not None and threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        if tuned_for not in ("latency", "throughput"):
            raise ConfigError(f"tuned_for must be 'latency' or 'throughput', got {tuned_for!r}")
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        ov = _openvino()
        core = ov.Core()
        try:
            graph = core.read_model(data, b"")
        except RuntimeError as error:
            raise ArtefactDamagedError(f"OpenVINO cannot read the graph: {str(error).strip()[-300:]}") from None
        self._defaults = _inputs_again(ov, graph, graph_inputs(data) - {"images"})
        self.optional_inputs = frozenset(self._defaults) - {"threshold"}
        self._shape = _fixed(graph.input("images"))
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads or available_cores(),
            "PERFORMANCE_HINT": tuned_for.upper(),
        }
        if not integers:
            settings["LP_TRANSFORMS_MODE"] = "NO"
        self._compiled = core.compile_model(graph, "CPU", settings)
        self._here = threading.local()  # an inference request serves one thread

    def run(self, images: np.ndarray, threshold: float | None = None, **optional: np.ndarray) -> Outputs:
        """See `guard.runtimes`."""
        check_images(images, self._shape)
        feed: dict[str, np.ndarray] = {"images": images, **self._defaults, **optional}
        if threshold is not None:
            feed["threshold"] = np.array(threshold, np.float32)
        if not hasattr(self._here, "request"):
            self._here.request = self._compiled.create_infer_request()
        found = self._here.request.infer(feed)
        return Outputs(*(np.array(found[name]) for name in _OUTPUTS))


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    return openvino


def _inputs_again(ov: Any, graph: Any, names: frozenset[str]) -> Mapping[str, np.ndarray]:
    """Make inputs of the constants `names`; their values by name."""
    values: dict[str, np.ndarray] = {}
    for constant in graph.get_ops():
        name = constant.get_friendly_name()
        if constant.get_type_name() != "Constant" or name not in names:
            continue
        values[name] = np.array(constant.data, np.float32)
        parameter = ov.opset13.parameter(constant.shape, np.float32, name=name)
        parameter.output(0).set_names({name})
        constant.output(0).replace(parameter.output(0))
        graph.add_parameters([parameter])
    graph.validate_nodes_and_infer_types()
    return values


def _fixed(images: Any) -> tuple[int, ...]:
    """The lengths of the input's dimensions after the first."""
    return tuple(length.get_length() for length in list(images.partial_shape)[1:])
