"""A classifier that is an ONNX file: ONNX Runtime computes its features and logits, torch the score on top."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..heads import LastLayer
from ..runtimes.onnx_providers import resolve_device
from ..runtimes.onnx_session import open_session
from ..scores.base import Need
from .outputs import FeatureClassifier, Outputs

log = logging.getLogger("ood_guard")

#: Element types an image input may have, as ONNX Runtime writes them.
DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
}


class ImageInput(NamedTuple):
    """The image input of a classifier's graph: (N, channels, H, W), or (N, H, W, channels) where `channels_last`.

    A uint8 input takes the pixels themselves, and the graph normalises them; others take normalised pixels.
    """

    name: str
    dtype: np.dtype[Any]
    channels_last: bool

    @classmethod
    def of(cls, session: Any) -> ImageInput:
        """The only input of an `onnxruntime.InferenceSession` with a fixed size."""
        (only,) = session.get_inputs()
        return cls(only.name, DTYPES[only.type], is_channels_last(only.shape))

    def feed(self, x: Tensor) -> dict[str, np.ndarray]:
        """What the session takes, for images x (N, channels, H, W)."""
        if self.channels_last:
            x = x.permute(0, 2, 3, 1)
        array = x.cpu().numpy()
        if self.dtype == np.uint8:  # x is pixels up to float32 rounding, and a cast would cut 6.9999 to 6
            array = array.round()
        return {self.name: np.ascontiguousarray(array, dtype=self.dtype)}


def is_channels_last(shape: Any) -> bool:
    """Whether (N, a, b, c) ends in its channels: c is 1 or 3, and a is not."""
    return shape[3] in (1, 3) and shape[1] not in (1, 3)


class OnnxClassifier(FeatureClassifier):
    """normalised images (N, channels, H, W) -> `Outputs`, by a graph that train.classifiers.onnx.file has prepared.

    Args:
        graph: a serialised ModelProto as uint8: one image input of fixed size with a dynamic batch; outputs
            logits float32 (N, C) and, where they were found, features float32 (N, D).
        last_layer: the weights between the two, where they were found.
        num_features: D, or 0.
        lacks: why there are no "features" or "weights", by need.
        file: the name of the file it came from.
    """

    graph: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self, graph: Tensor, last_layer: LastLayer | None, num_features: int, lacks: dict[Need, str], file: str
    ) -> None:
        super().__init__()
        self.register_buffer("graph", graph)
        self.register_buffer("weight", None if last_layer is None else last_layer.weight)
        self.register_buffer("bias", None if last_layer is None else last_layer.bias)
        self.num_features = num_features
        self.lacks = lacks
        self.file = file
        self._sessions: dict[str, Any] = {}
        self.register_load_state_dict_post_hook(_forget_sessions)

    def options(self) -> dict[str, Any]:
        """What `allocate` needs besides the state dict; JSON."""
        return {
            "kind": "onnx",
            "file": self.file,
            "num_features": self.num_features,
            "lacks": dict(self.lacks),
            "shapes": {name: list(buffer.shape) for name, buffer in self.named_buffers()},
        }

    @classmethod
    def allocate(cls, options: dict[str, Any]) -> OnnxClassifier:
        """An empty one of the shapes in `options`, for loading saved state into."""
        empty = {
            name: torch.zeros(shape, dtype=torch.uint8 if name == "graph" else torch.float32)
            for name, shape in options["shapes"].items()
        }
        last = LastLayer(empty["weight"], empty.get("bias")) if "weight" in empty else None
        return cls(empty["graph"], last, options["num_features"], options["lacks"], options["file"])

    def graph_bytes(self) -> bytes:
        """The serialised graph."""
        return self.graph.cpu().numpy().tobytes()

    def image_input(self) -> ImageInput:
        """What the graph takes."""
        return ImageInput.of(self._session("cpu"))

    def forward(self, x: Tensor) -> Outputs:
        """Features are empty, (N, 0), where the graph does not show them."""
        session = self._session(x.device.type)
        try:
            outputs = session.run(None, ImageInput.of(session).feed(x.detach()))
        except Exception as error:  # onnxruntime's own errors share no base class
            raise ModelError(f"ONNX Runtime cannot run {self.file} on {tuple(x.shape)}: {first_line(error)}") from None
        logits, *features = (torch.from_numpy(output).to(x.device) for output in outputs)
        return Outputs(features[0] if features else logits.new_zeros(len(logits), 0), logits, None)

    def last_layer(self) -> LastLayer | None:
        return None if self.weight is None else LastLayer(self.weight, self.bias)

    def shows(self) -> frozenset[Need]:
        found: tuple[Need, ...] = ("logits", "features", "weights")
        return frozenset(need for need in found if need not in self.lacks)

    def why_not(self, need: Need) -> str:
        return self.lacks.get(need, f"{self.file} is an ONNX graph, which shows only logits, features and weights")

    def _session(self, device: str) -> Any:
        """Opened when first needed, on the device of the images, with as many threads as torch has."""
        if device not in self._sessions:
            place = resolve_device("auto") if device == "cuda" else "cpu"
            if place != device:
                log.warning("this onnxruntime has no CUDA: %s runs on the CPU (ood-guard[gpu] brings it)", self.file)
            threads = torch.get_num_threads()
            self._sessions[device] = open_session(
                self.graph_bytes(), device=place, threads=threads, tuned_for="throughput"
            )
        return self._sessions[device]

    def _apply(self, fn: Any, recurse: bool = True) -> OnnxClassifier:
        """The graph stays on the CPU: moving it would move bytes that nothing there reads."""
        graph = self.graph
        super()._apply(fn, recurse)
        self.graph = graph
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles open sessions of their own; a session can be neither copied nor pickled."""
        return {**self.__dict__, "_sessions": {}}


def _forget_sessions(module: nn.Module, _: Any) -> None:
    """A session opened before `load_state_dict` would keep answering with the old graph."""
    module._sessions.clear()  # type: ignore[operator, union-attr]


def first_line(error: Exception) -> str:
    """What ONNX or ONNX Runtime said, in one line without its error code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text.removeprefix("[ONNXRuntimeError] : ").split(" : ", 2)[-1][:300].rstrip(".: ")
